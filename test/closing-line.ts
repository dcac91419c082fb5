/**
 * Ends a test run with one line that a person or a script can read: `N passed, N failed`. Before it stands which tensor engines
 * the tests ran on, and which are not on this machine.
 */
import { ENGINE_NAMES } from '../gpu-worker/tensor/engine.ts';
import { presentEngines } from '../gpu-worker/tensor/index.ts';
import type { Reporter, TestModule, TestCase } from 'vitest/node';

export default class ClosingLine implements Reporter {
  onTestRunEnd(modules: readonly TestModule[], errors: readonly unknown[]): void {
    const tests: TestCase[] = modules.flatMap((module) => [...module.children.allTests()]);
    const count = (state: 'passed' | 'failed' | 'skipped'): number =>
      tests.filter((test) => test.result().state === state).length;
    // A module that does not load, or an error outside any test, fails the run as a failed test does.
    const broken = modules.filter((module) => module.state() === 'failed' && module.errors().length > 0).length;
    const failed = count('failed') + broken + errors.length;
    const skipped = count('skipped');
    const line = `${String(count('passed'))} passed, ${String(failed)} failed`;
    const present = presentEngines();
    const absent = ENGINE_NAMES.filter((name) => !present.includes(name));
    const lacking = absent.length === 0 ? '' : `; not here: ${absent.join(', ')} (npm run native builds it)`;
    process.once('exit', () => {
      process.stdout.write(`engines tested: ${present.join(', ')}${lacking}\n`);
      process.stdout.write(`${line}${skipped === 0 ? '' : `, ${String(skipped)} skipped`}\n`);
    });
  }
}
