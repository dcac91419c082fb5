/** The service of a file of tests. */
import { afterAll, beforeAll } from 'vitest';
import { startStack, type LocalStack, type StackOptions } from '../../deploy/local/stack.ts';

/** Edge and worker from before the first test to after the last. What is asked of them is known from the first test on. */
export function serveTests(options: StackOptions): Pick<LocalStack, 'url' | 'engine'> {
  let stack: LocalStack | undefined;
  const running = (): LocalStack => {
    if (stack === undefined) throw new Error('the service is there when the first test begins');
    return stack;
  };
  beforeAll(async () => {
    stack = await startStack(options);
  });
  afterAll(() => stack?.stop());
  return {
    get url() {
      return running().url;
    },
    get engine() {
      return running().engine;
    },
  };
}
