/** What the edge reaches on Cloudflare. */
import { waitUntil } from 'cloudflare:workers';
import { logLevelSchema } from '../shared/log-level.ts';
import { createSigner } from '../shared/signature.ts';
import { durableDirectory } from './access/access-object.ts';
import { answerMillisecondsSchema, type Platform } from './environment.ts';
import { originsOf } from './middleware/cross-origin.ts';
import { registeredWorkers, singleWorker, type AsyncDirectory } from './placement/placement.ts';

/** Bindings and variables, with the secrets that `wrangler secret put` sets, and what has a default. */
type Bindings = Env & {
  readonly WORKER_SECRET?: string;
  readonly DDPNOPT_ADMIN_KEY?: string;
  readonly ANSWER_MILLISECONDS?: string;
};

/** @throws Error if the configuration says of no worker where it is, nor how one may register */
export function cloudflarePlatform(env: Bindings): Platform {
  const { WORKER_URL: url, WORKER_SECRET: secret } = env;
  const signer = secret === undefined || secret === '' ? null : createSigner(secret);
  if (url === '' && signer === null) throw new Error('without WORKER_URL workers register, which takes WORKER_SECRET');
  return {
    allowedOrigins: originsOf(env.ALLOWED_ORIGINS),
    placement:
      url !== '' || signer === null ? singleWorker(url) : registeredWorkers(placementObject(env), signer, Date.now),
    signer,
    answerMilliseconds: answerMillisecondsSchema.parse(env.ANSWER_MILLISECONDS),
    access: {
      directory: durableDirectory(env.ACCESS),
      adminKey: env.DDPNOPT_ADMIN_KEY === undefined || env.DDPNOPT_ADMIN_KEY === '' ? null : env.DDPNOPT_ADMIN_KEY,
      later: (milliseconds, work) => {
        waitUntil(scheduler.wait(milliseconds).then(work));
      },
    },
    logLevel: logLevelSchema.parse(env.DDPNOPT_LOG_LEVEL),
    log: (line, status) => {
      if (status < 500) console.log(JSON.stringify(line));
      else console.error(JSON.stringify(line));
    },
    // The host is not looked at.
    asset: (path) => env.ASSETS.fetch(new URL(path, 'https://assets.invalid')),
    pipe: (length) => new FixedLengthStream(length),
    // workerd breaks off the connection, and logs why, by itself.
    relayed: (answer) => answer,
  };
}

function placementObject({ PLACEMENT }: Bindings): AsyncDirectory {
  // A stub belongs to the request that it was made in.
  const stub = () => PLACEMENT.getByName('placement');
  return {
    heartbeat: (report) => stub().heartbeat(report),
    leave: (id) => stub().leave(id),
    lease: (session, failed) => stub().lease(session, failed),
    reserve: (session, tenant, quota) => stub().reserve(session, tenant, quota),
    release: (session, epoch) => stub().release(session, epoch),
    anyWorker: (failed) => stub().anyWorker(failed),
    workers: () => stub().workers(),
  };
}
