/** Checks the keys of requests. What the directory says of a key is remembered for some seconds, so that steps do not ask it. */
import { ALL_SCOPES, type KeyId } from '../../shared/access.ts';
import { ProblemError } from '../../shared/errors.ts';
import { LIMITS } from '../../shared/limits.ts';
import { LOCAL_TENANT } from '../../shared/tenant.ts';
import { withDeadline } from '../deadline.ts';
import type { AccessDirectory, FoundKey } from './access-directory.ts';
import { areEqual, hashOf, idOf } from './api-key.ts';
import type { Principal } from './principal.ts';
import { TokenBucket } from './token-bucket.ts';

const REMEMBERED_KEYS = 10_000;
const ADMIN_KEY_CHARACTERS = 32;
/** Questions to the directory about keys that this isolate has not seen, a second and at once: whoever tries keys asks no more. */
const UNKNOWN_KEYS = { perSecond: 20, burst: 100 };
const CREATE_KEY = 'Create a key (ddpnopt keys create, or POST /v1/admin/keys)';

const OPERATOR: Principal = { tenant: LOCAL_TENANT, scopes: new Set(ALL_SCOPES), key: null };

interface Remembered {
  /** Null if there is no such key. */
  readonly found: FoundKey | null;
  /** Milliseconds since the epoch. */
  readonly until: number;
}

export class KeyRing {
  readonly #directory: AccessDirectory;
  readonly #adminKey: string | null;
  #adminHash: string | null = null;
  readonly #remembered = new Map<KeyId, Remembered>();
  readonly #unknown = new TokenBucket(UNKNOWN_KEYS.burst, 0);
  readonly #learn: (found: FoundKey) => void;

  /**
   * @param adminKey of the configuration; null for none: whoever is on this machine may do everything
   * @param learn takes what the directory says of a key
   */
  constructor(directory: AccessDirectory, adminKey: string | null, learn: (found: FoundKey) => void) {
    this.#directory = directory;
    this.#adminKey = adminKey;
    this.#learn = learn;
  }

  /** Whether keys are asked for. */
  get isClosed(): boolean {
    return this.#adminKey !== null;
  }

  /** @throws ProblemError `unauthenticated`, `rate_limited`, `access_not_configured`, `access_unavailable` */
  async principalOf(request: Request): Promise<Principal> {
    if (this.#adminKey === null) {
      assertLocal(request);
      return OPERATOR;
    }
    if (this.#adminKey.length < ADMIN_KEY_CHARACTERS)
      throw notConfigured('DDPNOPT_ADMIN_KEY has fewer than 32 characters');
    const [scheme, presented, more] = (request.headers.get('authorization') ?? '').split(' ');
    if (scheme === '') {
      throw unauthenticated('The request has no API key.', 'Send the header Authorization: Bearer ddpnopt_…');
    }
    if (scheme?.toLowerCase() !== 'bearer' || presented === undefined || more !== undefined) {
      throw unauthenticated(
        'The header Authorization is not of the form "Bearer <key>".',
        'Send Authorization: Bearer ddpnopt_…',
      );
    }
    const hash = await hashOf(presented);
    this.#adminHash ??= await hashOf(this.#adminKey);
    if (areEqual(hash, this.#adminHash)) return OPERATOR;
    const id = idOf(presented);
    const found = id === null ? null : await this.#find(id);
    if (found === null || !areEqual(hash, found.hash)) {
      throw unauthenticated('There is no such API key.', `Check that the whole of it was sent. ${CREATE_KEY}.`);
    }
    return principal(found);
  }

  async #find(id: KeyId): Promise<FoundKey | null> {
    const now = Date.now();
    const known = this.#remembered.get(id);
    if (known !== undefined && now < known.until) return known.found;
    if (known?.found == null && !this.#unknown.take(UNKNOWN_KEYS.perSecond, UNKNOWN_KEYS.burst, now).isAdmitted) {
      throw new ProblemError('rate_limited', {
        detail:
          'Many keys that are not known here have been sent in a short time; others wait until they are looked up.',
        remedy: 'Send the same request again in a second.',
      });
    }
    const found = await asking(() => this.#directory.findKey(id));
    if (found !== null) this.#learn(found);
    this.#remembered.delete(id);
    this.#remembered.set(id, { found, until: now + 1000 * LIMITS.keyCacheSeconds });
    const [oldest] = this.#remembered.keys();
    if (this.#remembered.size > REMEMBERED_KEYS && oldest !== undefined) this.#remembered.delete(oldest);
    return found;
  }
}

/** Asks the directory. @throws ProblemError `access_unavailable` if it fails, or does not answer in time */
export async function asking<Result>(ask: () => Promise<Result>): Promise<Result> {
  try {
    return await withDeadline(LIMITS.answerMilliseconds, noAnswer, ask);
  } catch (cause) {
    throw noAnswer(cause);
  }
}

function noAnswer(cause?: unknown): ProblemError {
  return new ProblemError(
    'access_unavailable',
    { detail: 'The directory of keys and limits does not answer.', remedy: 'Send the same request again in a second.' },
    { cause },
  );
}

function principal({ key }: FoundKey): Principal {
  const { id, tenant, scopes, expiresAt, revokedAt } = key;
  if (revokedAt !== null) throw unauthenticated(`Key ${id} was revoked at ${revokedAt}.`, `${CREATE_KEY}.`);
  if (expiresAt !== null && Date.parse(expiresAt) <= Date.now()) {
    throw unauthenticated(`Key ${id} expired at ${expiresAt}.`, `${CREATE_KEY}.`);
  }
  return { tenant, scopes: new Set(scopes), key: id };
}

function unauthenticated(detail: string, remedy: string): ProblemError {
  return new ProblemError('unauthenticated', { param: 'Authorization', detail, remedy });
}

const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/;
const LOOPBACK_ADDRESS = /^(127(\.\d{1,3}){3}|::1|::ffff:127(\.\d{1,3}){3})$/;
/** What proxies say about whom they forward for; Cloudflare says so of every request. */
const FORWARDED_FOR = ['cf-connecting-ip', 'x-forwarded-for', 'x-real-ip'];

/** Lets through what comes from this machine, as far as a request can tell. @throws ProblemError `access_not_configured` */
function assertLocal(request: Request): void {
  const { hostname } = new URL(request.url);
  if (!LOOPBACK.test(hostname)) throw notConfigured(`it has no admin key, and was called as ${hostname}`);
  const origin = FORWARDED_FOR.flatMap((name) => request.headers.get(name)?.split(',') ?? []).map((text) =>
    text.trim(),
  );
  if (request.headers.has('forwarded') || !origin.every((address) => LOOPBACK_ADDRESS.test(address))) {
    throw notConfigured('it has no admin key, and a proxy forwards to it');
  }
}

function notConfigured(reason: string): ProblemError {
  return new ProblemError('access_not_configured', {
    detail: `The service has no access control (${reason}). Without one it answers on the loopback interface alone.`,
    remedy:
      'Set the secret DDPNOPT_ADMIN_KEY to 32 or more random characters, create keys with it, and send them; or call the service as localhost.',
  });
}
