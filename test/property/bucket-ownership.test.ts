/** Owners of one session in a bucket, whose requests take effect in any order that there can be. */
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { ownedInBucket, type Bucket } from '../../gpu-worker/storage/s3-owned.ts';
import { ProblemError } from '../../shared/errors.ts';

const SESSION = 'ses_1';
const PREFIX = `steps/${SESSION}/`;

type Turn = () => Promise<unknown>;

/** A bucket as S3 promises one: a request takes effect at some instant between its start and its answer, and is seen from then on. */
function bucketOf(objects: Map<string, Uint8Array<ArrayBuffer>>, turn: Turn, stalls: readonly number[]): Bucket {
  let requests = 0;
  const request = async <Result>(effect: () => Result): Promise<Result> => {
    const stall = stalls[requests++ % stalls.length] ?? 0;
    for (let turns = 0; turns <= stall; turns++) await turn();
    const result = effect();
    await turn();
    return result;
  };
  return {
    put: ({ key, bytes }) => request(() => void objects.set(key, bytes)),
    remove: async (names) => {
      for (const name of names) await request(() => objects.delete(name));
    },
    list: (prefix) =>
      request(() =>
        [...objects]
          .filter(([name]) => name.startsWith(prefix))
          .map(([key, bytes]) => ({ key, bytes: bytes.length }))
          .toSorted((a, b) => (a.key < b.key ? -1 : 1)),
      ),
    read: (name) => request(() => objects.get(name) ?? null),
  };
}

/** The earlier epoch mostly comes first: it has time to write, and may be overtaken at any of its requests. */
const PLAN = fc.record({
  epoch: fc.integer({ min: 1, max: 4 }),
  comesAfter: fc.nat(40),
  writes: fc.nat(6),
  stalls: fc.array(fc.nat(30), { maxLength: 11 }),
});

interface Owner {
  readonly epoch: number;
  /** What it found when it began, unless it was too late; what it wrote and was told is written. */
  readonly found: string[] | null;
  readonly acknowledged: readonly string[];
}

it('what was acknowledged is found by every later owner, and what an owner did not find never comes to light', async () => {
  await fc.assert(
    fc.asyncProperty(fc.scheduler(), fc.array(PLAN, { minLength: 2, maxLength: 4 }), async (scheduler, plans) => {
      let isQuiet = false;
      const turn = () => (isQuiet ? Promise.resolve() : scheduler.schedule(Promise.resolve()));
      const objects = new Map<string, Uint8Array<ArrayBuffer>>();
      const own = (epoch: number, stalls: readonly number[]) =>
        ownedInBucket(bucketOf(objects, turn, stalls), { session: SESSION, epoch, prefixes: [PREFIX] });
      // An epoch has one owner.
      const owners = [...new Map(plans.map((plan) => [plan.epoch, plan])).values()];
      const running = owners.map(async ({ epoch, comesAfter, writes, stalls }): Promise<Owner> => {
        for (let turns = 0; turns < 60 * (epoch - 1) + comesAfter; turns++) await turn();
        let found: string[] | null = null;
        const acknowledged: string[] = [];
        try {
          const store = own(epoch, stalls);
          found = (await store.list(PREFIX)).map(({ key }) => key);
          for (let n = 0; n < writes; n++) {
            const key = `${PREFIX}${String(epoch)}-${String(n)}`;
            await store.write({ puts: [{ key, bytes: new Uint8Array(n), digest: null }], deletes: [] });
            acknowledged.push(key);
          }
        } catch (error) {
          expect(error).toBeInstanceOf(ProblemError);
          expect(error).toMatchObject({ code: 'session_moved' });
        }
        return { epoch, found, acknowledged };
      });
      await scheduler.waitFor(Promise.all(running));
      isQuiet = true;
      const last = new Set((await own(100, []).list(PREFIX)).map(({ key }) => key));
      for (const { epoch, found, acknowledged } of await Promise.all(running)) {
        for (const key of [...acknowledged, ...(found ?? [])]) expect(last).toContain(key);
        if (found === null) continue;
        const [earlier, known] = [(key: string) => Number(key.slice(PREFIX.length)[0]) < epoch, new Set(found)];
        expect([...last].filter((key) => earlier(key) && !known.has(key))).toEqual([]);
      }
    }),
    { seed: 1, numRuns: 200 },
  );
});
