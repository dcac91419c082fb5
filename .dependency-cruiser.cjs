/**
 * Who may know whom. Each rule allows one folder what it needs and forbids the rest; test/boundaries.test.ts proves that the
 * check fires.
 */
const only = (name, from, allowed, comment) => ({
  name,
  comment,
  severity: 'error',
  from: { path: from },
  to: { pathNot: allowed.map((path) => `^${path}`) },
});
const modules = (...names) => names.map((name) => `node_modules/${name}(/|$)`);

module.exports = {
  forbidden: [
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true } },
    // workerd has modules of its own.
    { name: 'resolvable', severity: 'error', from: {}, to: { couldNotResolve: true, pathNot: '^cloudflare:workers$' } },
    {
      name: 'nothing-imports-test',
      severity: 'error',
      from: { pathNot: '^test/' },
      to: { path: '^test/' },
    },
    only('shared', '^shared/', ['shared/', ...modules('zod')], 'shared speaks to both sides and runs anywhere'),
    only(
      'edge',
      '^edge/',
      ['edge/', 'shared/', 'cloudflare:workers$', ...modules('hono', '@hono/zod-openapi', 'zod')],
      'the edge holds no tensor engine and runs in workerd: nothing of Node',
    ),
    only(
      'cli',
      '^clients/cli/(?!main|serve)',
      ['clients/(cli|datasets|js|train)/', 'shared/', '(fs/promises|util)'],
      'the command line is a client as others are',
    ),
    only('cli-serve', '^clients/cli/(main|serve)', ['clients/cli/', 'deploy/local/'], 'starts a service, too'),
    only('client', '^clients/js/(?!tfjs/)', ['clients/js/', 'shared/'], 'the client library runs in browsers too'),
    only(
      'client-tfjs',
      '^clients/js/tfjs/',
      ['clients/js/', 'shared/', ...modules('zod', '@tensorflow/tfjs-core', '@tensorflow/tfjs-layers')],
      'types of TensorFlow.js alone, whose object the caller hands over',
    ),
    {
      name: 'client-tfjs-types',
      severity: 'error',
      from: { path: '^clients/js/tfjs/' },
      to: { path: '^node_modules/@tensorflow/', dependencyTypesNot: ['type-only'] },
    },
    only('training', '^clients/(train|datasets)/', ['clients/', 'shared/', 'node:', '(fs|path|url|zlib)']),
    only('demo', '^demo/', ['demo/', 'clients/', 'deploy/', 'node:'], 'through public interfaces only'),
    only(
      'bench',
      '^bench/(?!durability/|engine/|peers/|results/|scaling/|service/|time-memory/|training-time/)',
      [
        'bench/',
        'clients/',
        'deploy/',
        '(fs|os|path|url|util|child_process|crypto|zlib)',
        ...modules('ml-matrix', 'sharp', 'zod'),
      ],
      'through public interfaces only',
    ),
    only(
      'bench-results',
      '^bench/results/',
      ['bench/', 'clients/', 'deploy/', 'shared/', '(crypto|fs|os|path|timers/promises|url|util)'],
      'through public interfaces only: of shared, the order of samples that the service publishes',
    ),
    only(
      'bench-service',
      '^bench/(durability|service)/',
      [
        'bench/',
        'deploy/',
        'shared/',
        '(child_process|crypto|events|fs|fs/promises|http|module|os|path|readline|stream|url)',
        ...modules('esbuild', 'zod'),
      ],
      'the edge as it is bundled, and requests without a client library',
    ),
    only(
      'bench-engine',
      '^bench/(engine|scaling|time-memory)/',
      [
        'bench/',
        'gpu-worker/(optimizer|model|tensor|training)/',
        'shared/',
        '(child_process|events|fs|os|timers/promises|url|util)',
      ],
      'measures below the service',
    ),
    only(
      'bench-training-time',
      '^bench/training-time/',
      ['bench/', 'clients/', 'gpu-worker/(tensor|training)/', 'shared/', '(fs|os|path|url|util)'],
      'measures below the service',
    ),
    only(
      'bench-peers',
      '^bench/peers/',
      ['bench/peers/', 'shared/', '(child_process|events|fs|readline|url)', ...modules('zod')],
      'the peers know the service’s declarations, nothing of how it computes',
    ),
    only('docs', '^docs/', ['docs/', 'shared/', '(fs)', ...modules('zod')]),
    only(
      'deploy-node',
      '^deploy/node/',
      [
        'deploy/node/',
        'edge/',
        'shared/',
        '(crypto|events|fs|net|path|url|node:sqlite)',
        ...modules('@hono/node-server', 'zod'),
      ],
      'the edge under Node: what runs in workerd, and what Node has in its place',
    ),
    only('npm-package', '^deploy/npm/', [
      'deploy/npm/',
      'clients/js/',
      '(child_process|fs/promises|url|util|zlib)',
      ...modules('esbuild'),
    ]),
    only('deploy', '^deploy/(?!node/|npm/)', [
      'deploy/',
      'shared/',
      '(child_process|crypto|fs|path|stream|url|util)',
      ...modules('miniflare', 'wrangler', 'esbuild', 'zod'),
    ]),
    // gpu-worker, downwards only: server → session → engine → training → {optimizer, model} → tensor.
    only('server', '^gpu-worker/server/', [
      'gpu-worker/(server|session)/',
      // Answers pass through as they are.
      'gpu-worker/training/trainer.ts',
      'shared/',
      '(crypto|http)',
      ...modules('hono', '@hono/node-server', 'prom-client', '@opentelemetry/[a-z-]+'),
    ]),
    only('session', '^gpu-worker/session/', [
      'gpu-worker/(session|engine|storage)/',
      'gpu-worker/training/trainers?.ts',
      'shared/',
      'util',
      ...modules('zod'),
    ]),
    only('thread', '^gpu-worker/thread/', ['gpu-worker/thread/', 'shared/', 'worker_threads']),
    only('storage', '^gpu-worker/storage/', [
      'gpu-worker/(storage|thread)/',
      'shared/',
      '(crypto|node:sqlite|timers/promises|worker_threads)',
      ...modules('s3mini', 'zod'),
    ]),
    {
      name: 'storage-for-sessions-alone',
      severity: 'error',
      from: { pathNot: '^(gpu-worker/(session/|storage/|index.ts)|test/)' },
      to: { path: '^gpu-worker/storage/' },
    },
    only(
      'check',
      '^gpu-worker/check/',
      ['gpu-worker/(check|training|tensor)/', 'shared/', '(child_process|fs|url)', ...modules('zod')],
      'holds an engine against the reference, below the service',
    ),
    only('engine', '^gpu-worker/engine/', ['gpu-worker/(engine|thread|training|tensor)/', 'shared/', 'worker_threads']),
    only('training', '^gpu-worker/training/', ['gpu-worker/(training|optimizer|model|tensor)/', 'shared/', 'crypto']),
    only(
      'model',
      '^gpu-worker/model/',
      ['gpu-worker/(model|tensor)/', 'gpu-worker/optimizer/layers/', 'shared/'],
      'a model shares its layers’ geometry with the optimizer, and nothing of its algorithm',
    ),
    only('optimizer', '^gpu-worker/optimizer/', ['gpu-worker/(optimizer|tensor)/', 'shared/']),
    {
      name: 'optimizer-downwards',
      comment: 'inside optimizer: step → {ddp, update} → curvature → {layers, losses}',
      severity: 'error',
      from: { path: '^gpu-worker/optimizer/(ddp|update|curvature|layers|losses)/' },
      to: { path: '^gpu-worker/optimizer/step' },
    },
    {
      name: 'ddp-and-update-apart',
      severity: 'error',
      from: { path: '^gpu-worker/optimizer/(ddp|update)/' },
      to: { path: '^gpu-worker/optimizer/(ddp|update)/', pathNot: '^gpu-worker/optimizer/$1/' },
    },
    {
      name: 'curvature-downwards',
      severity: 'error',
      from: { path: '^gpu-worker/optimizer/curvature/' },
      to: { path: '^gpu-worker/optimizer/(ddp|update)/' },
    },
    {
      name: 'layers-and-losses-at-the-bottom',
      severity: 'error',
      from: { path: '^gpu-worker/optimizer/(layers|losses)/' },
      to: { path: '^gpu-worker/optimizer/(ddp|update|curvature)/' },
    },
    only('tensor', '^gpu-worker/tensor/', [
      'gpu-worker/tensor/',
      'shared/',
      '(fs|module|os|path|url)',
      ...modules('@tensorflow', 'ml-matrix'),
    ]),
    {
      name: 'tensorflow-behind-the-seam',
      severity: 'error',
      from: { pathNot: '^(gpu-worker/tensor|clients/js/tfjs|test)/' },
      to: { path: '^node_modules/@tensorflow/' },
    },
    {
      name: 'oracle-is-independent',
      severity: 'error',
      from: { path: '^test/oracle/' },
      to: { path: '^(gpu-worker|shared|clients|edge)/' },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    exclude: { path: '^clients/js/dist/' },
    tsPreCompilationDeps: true,
    tsConfig: { fileName: 'tsconfig.json' },
    enhancedResolveOptions: {
      exportsFields: ['exports'],
      conditionNames: ['import', 'require', 'node', 'default', 'types'],
    },
  },
};
