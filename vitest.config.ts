import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: './test/native-engine.setup.ts',
    reporters: ['default', './test/closing-line.ts'],
    // Many tests wait for processes of their own: on two cores one file at a time would leave one of them idle.
    maxWorkers: '100%',
    // Bounds on what hangs, which a slow machine must not meet: how long something takes is no test's judgement.
    hookTimeout: 180_000,
    testTimeout: 180_000,
    expect: { poll: { timeout: 60_000 } },
  },
});
