/** npm run docs:options: writes docs/options.md. */
import { writeFileSync } from 'node:fs';
import { renderOptions } from './options.ts';

writeFileSync(new URL('../options.md', import.meta.url), renderOptions());
