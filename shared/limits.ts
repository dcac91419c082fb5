/**
 * Limits of the service. Each is stated once, here; the OpenAPI document, the error texts and the checks read it from here.
 */
export const LIMITS = {
  /** Bytes of one request body. Cloudflare caps a Worker's request body at 100 MB on its Free and Pro plans. */
  bodyBytes: 100_000_000,
  /** Bytes of the JSON header of a safetensors body: about 5,000 tensors. */
  headerBytes: 1_048_576,
  /** Bytes of the JSON document that creates a session. */
  sessionDocumentBytes: 1_048_576,
  /** Samples in one batch. The step factorises one B×B matrix per layer, so time grows with B³ and memory with B². */
  batch: 2048,
  /** Layers with parameters in one session. */
  layers: 512,
  /** Features on either side of a dense layer. The Kronecker factors are factorised at this size. */
  features: 16_384,
  /** Seconds an idle session is kept. */
  ttlSeconds: { minimum: 10, default: 3600, maximum: 86_400 },
  /** Bytes of an early-rejected body that are read, so that the client sees the answer rather than a reset connection. */
  drainBytes: 8_388_608,
} as const;
