/**
 * Limits of the service. Each is stated once, here; the OpenAPI document, the error texts and the checks read it from here.
 */
export const LIMITS = {
  /** Bytes of one request body. Cloudflare caps a Worker's request body at 100 MB on its Free and Pro plans. */
  bodyBytes: 100_000_000,
  /** Bytes of request bodies that a worker holds at once, from their arrival to the end of their step. */
  bodyBytesInMemory: 1_000_000_000,
  /** Bytes of the parts of one step. */
  stepPartsBytes: 400_000_000,
  /** Bytes of the parts of all steps that a worker holds. */
  partsBytes: 4_000_000_000,
  /** Parts of one step. */
  parts: 1024,
  /** Seconds after which the parts of a step are dropped, unless another one comes or they are committed. */
  partSeconds: 900,
  /** Bytes of the chunks of one session's data set, and of those of all sessions that a worker holds. */
  dataSetBytes: 1_000_000_000,
  dataBytes: 8_000_000_000,
  /** Bytes of data sets that a worker holds in memory, those that runs draw from: at least one must fit. */
  dataBytesInMemory: 2_000_000_000,
  /** Chunks of one data set. */
  dataChunks: 1024,
  /** Samples of one data set: the order of an epoch takes 4 bytes for each, and some of the worker's time to make. */
  dataSamples: 4_000_000,
  /** Steps of one run. */
  runSteps: 1_000_000,
  /** Runs of a session that are known, the last ones. */
  runs: 32,
  /** Steps of which a session keeps the metrics, for those who listen. */
  eventHistory: 1000,
  /** Bytes of events that a listener has not read, from which on it is sent no more: the whole history and as much again. */
  eventBufferBytes: 1_000_000,
  /** Listeners to one session, and to all sessions of a worker. */
  sessionListeners: 32,
  listeners: 512,
  /** Milliseconds between two comments in a stream of events. */
  heartbeatMilliseconds: 15_000,
  /** Bytes of answers that clients have not read yet, from which on a worker computes no more of them. */
  undeliveredBytes: 1_000_000_000,
  /** Bytes of the last replies of a worker's sessions, which are kept for whoever asks again; the oldest go first. */
  retainedReplyBytes: 1_000_000_000,
  /** Milliseconds in which not a byte of a body has come in or an answer has gone out, after which the worker breaks off. */
  stallMilliseconds: 60_000,
  /** Bytes of the JSON header of a safetensors body: about 5,000 tensors. */
  headerBytes: 1_048_576,
  /** Bytes of the JSON header of a checkpoint, whose grouped convolutions have tensors for every group. */
  checkpointHeaderBytes: 33_554_432,
  /** Bytes of tensors as JSON, sent or, of those that would else be safetensors, answered. */
  jsonTensorBytes: 65_536,
  /**
   * S·B³ of systems that the edge solves itself: S stages, B samples. Some milliseconds (docs/results/kernel-solve.md) of the 10 ms of
   * CPU time that a Worker has on Cloudflare's Free plan; the rest is for the request, and for slower machines.
   */
  edgeSolveWork: 2 * 128 ** 3,
  /** Bytes of the JSON document that creates a session. */
  sessionDocumentBytes: 1_048_576,
  /** Samples in one batch. */
  batch: 2048,
  /**
   * L·R³ of one step with L layers that factorises one R×R matrix per layer, R = B·r with r columns of terminal curvature per sample;
   * L·R² times the iterations where it solves by conjugate gradients. Two layers' factorisations at the largest batch.
   */
  batchWork: 2 * 2048 ** 3,
  /** Bytes of the L matrices of R×R of one step that travel: a policy's factors, or kernel mode's Gram matrices. */
  batchFactorBytes: 100_000_000,
  /** Layers with parameters in one session. */
  layers: 512,
  /** Features or channels on either side of a layer. */
  features: 16_384,
  /** Σ n³ + c³ over the layers of a session whose metric factorises an n×n and a c×c matrix per layer. */
  refreshWork: 2 * 2050 ** 3,
  /** Bytes of state of all sessions of a worker together. */
  stateBytes: 1_000_000_000,
  /** Parameters of one generic layer: its per-sample gradients are sent and held as they are. */
  genericParameters: 1_048_576,
  /** Parameters of a hosted model: its weights travel in one body. */
  modelParameters: 25_000_000,
  /** Numbers in all centres of a max-Mahalanobis-centre loss together, classes times outputs. */
  centreNumbers: 1_000_000,
  /** Classes of a max-Mahalanobis-centre loss, whose centres take the cube of it to make. */
  centreClasses: 1024,
  /** Bytes of activations and their gradients in one hosted step. */
  activationBytes: 1_500_000_000,
  /** Multiplications of one forward pass of a hosted model on one batch. */
  forwardWork: 5e10,
  /** Columns of terminal curvature per sample. */
  curvatureColumns: 1024,
  /** Σ R²·n·c of one step over the parameter blocks whose per-sample gradients are made explicit. */
  gramWork: 1e11,
  /**
   * Bytes of one step beside the state: with the states of a worker, and gaps among them as large again, they fit into the 4 GB that
   * WebAssembly can address.
   */
  stepBytes: 2_000_000_000,
  /** Seconds for which an isolate of the edge remembers a key: a revocation takes effect within them. */
  keyCacheSeconds: 10,
  /** Seconds after which an isolate of the edge reports what it has counted: quotas hold to what other isolates take meanwhile. */
  usageFlushSeconds: 5,
  /** Seconds an idle session is kept. */
  ttlSeconds: { minimum: 10, default: 3600, maximum: 86_400 },
  /** Seconds that the clocks of edge and workers may differ. */
  clockSkewSeconds: 60,
  /** Milliseconds in which the parts of the service answer each other what takes no computing; who does not is taken to hang. */
  answerMilliseconds: 10_000,
  /** Milliseconds that a refused body is read for, so that the client sees the answer rather than a reset connection. */
  drainMilliseconds: 1000,
} as const;
