import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    globalSetup: './test/native-engine.setup.ts',
    reporters: ['default', './test/closing-line.ts'],
    hookTimeout: 60_000,
    testTimeout: 30_000,
  },
});
