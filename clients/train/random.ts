/** Seeded randomness of training runs. */
export { permutation, seededRandom } from '../../shared/random.ts';
