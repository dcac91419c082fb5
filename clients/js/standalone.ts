/** What the package's one-file build holds: the client, and its adapter for TensorFlow.js. */
export * from './index.ts';
export * from './tfjs/index.ts';
