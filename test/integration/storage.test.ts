/** Every store keeps what it is given, exactly; whatever sessions ask of it, it is the same on all of them. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openS3Storage } from '../../gpu-worker/storage/s3.ts';
import { IN_MEMORY, openSqliteStorage } from '../../gpu-worker/storage/sqlite.ts';
import type { NewObject, Storage } from '../../gpu-worker/storage/storage.ts';
import { seededRandom } from '../../shared/random.ts';
import { startS3Server, type S3Server } from '../../bench/durability/s3-server.ts';

function object(key: string, size: number, seed = 1): NewObject {
  const random = seededRandom(seed);
  return { key, bytes: Uint8Array.from({ length: size }, () => 256 * random()), digest: null };
}

const put = (...objects: readonly NewObject[]) => ({ puts: objects, deletes: [] });

const folder = mkdtempSync(join(tmpdir(), 'ddpnopt-'));
let server: S3Server;
beforeAll(async () => {
  server = await startS3Server();
});
afterAll(async () => {
  await server.stop();
  rmSync(folder, { recursive: true, force: true });
});

const sqlite = (file: string, isShared = false) =>
  openSqliteStorage({ file, maximumBytes: 3e8, survives: 'process', isShared });
function s3(changed: { readonly bucket?: string; readonly prefix?: string } = {}): Promise<Storage> {
  const { bucket = 'ddpnopt', prefix = 'conformance/' } = changed;
  return openS3Storage({
    endpoint: `${server.settings['AWS_ENDPOINT_URL_S3']!}/${bucket}`,
    prefix,
    region: 'us-east-1',
    accessKeyId: 'S3RVER',
    secretAccessKey: 'S3RVER',
  });
}

describe.each([
  { title: 'sqlite, a file', open: () => sqlite(join(folder, 'store.sqlite')), isDurable: true },
  { title: 'sqlite, in memory', open: () => sqlite(IN_MEMORY), isDurable: false },
  { title: 's3', open: () => s3(), isDurable: true },
])('$title', ({ open, isDurable }) => {
  let storage: Storage;
  beforeAll(async () => {
    storage = await open();
  });
  afterAll(() => storage.close());

  it('reads what was written, of any size', async () => {
    for (const size of [0, 1, 4096, 1_000_003]) {
      const expected = object('sizes/one', size).bytes.slice();
      await storage.write(put(object('sizes/one', size)));
      expect(await storage.read('sizes/one')).toEqual(expected);
    }
    expect(await storage.read('sizes/two')).toBeNull();
    expect(storage.isDurable).toBe(isDurable);
  });

  it('lists keys in their order, with sizes, and nothing of another prefix', async () => {
    await storage.write(
      put(object('list/b/2', 3), object('list/a/10', 2), object('list/b/1', 1), object('listing', 1)),
    );
    expect(await storage.list('list/')).toEqual([
      { key: 'list/a/10', bytes: 2 },
      { key: 'list/b/1', bytes: 1 },
      { key: 'list/b/2', bytes: 3 },
    ]);
    expect(await storage.list('list/b/')).toHaveLength(2);
    expect(await storage.list('nothing/')).toEqual([]);
  });

  it('lists more keys than one answer holds', async () => {
    const keys = Array.from({ length: 1100 }, (_, i) => `many/${String(i).padStart(5, '0')}`);
    await Promise.all(keys.map((key) => storage.write(put(object(key, 1)))));
    expect((await storage.list('many/')).map(({ key }) => key)).toEqual(keys);
    await storage.write({ puts: [], deletes: keys });
    expect(await storage.list('many/')).toEqual([]);
  });

  it('writes and deletes together; deletes what is not there, and overwrites', async () => {
    await storage.write(put(object('swap/old', 5)));
    await storage.write({ puts: [object('swap/new', 6)], deletes: ['swap/old', 'swap/never'] });
    expect(await storage.list('swap/')).toEqual([{ key: 'swap/new', bytes: 6 }]);
    const bytes = object('', 9, 2).bytes;
    await storage.write(put(object('swap/new', 9, 2)));
    expect(await storage.read('swap/new')).toEqual(bytes);
  });

  it('refuses bytes that are not those of their digest', async () => {
    await storage.write(put({ ...object('damaged', 10), digest: '0'.repeat(64) }));
    await expect(storage.read('damaged')).rejects.toMatchObject({ code: 'storage_damaged' });
  });
});

describe.each([
  { title: 'sqlite, a shared file', open: () => sqlite(join(folder, 'shared.sqlite'), true) },
  { title: 's3', open: () => s3({ prefix: 'owned/' }) },
])('one owner after another, $title', ({ open }) => {
  let storage: Storage;
  /** Another process's, as it were. */
  let other: Storage;
  beforeAll(async () => {
    storage = await open();
    other = await open();
  });
  afterAll(() => Promise.all([storage.close(), other.close()]));

  const moved = { code: 'session_moved' };
  let sessions = 0;
  const newSession = () => {
    const session = `session-${++sessions}`;
    const ownership = (epoch: number) => ({ session, epoch, prefixes: [`records/${session}`, `steps/${session}/`] });
    return { ownership, record: `records/${session}`, step: (n: number) => `steps/${session}/${n}` };
  };

  it('the later one finds what was written, and the earlier one is refused', async () => {
    const { ownership, record, step } = newSession();
    const first = storage.own(ownership(1));
    await first.write(put(object(record, 3), object(step(0), 5)));
    await first.write({ puts: [object(step(1), 6)], deletes: [step(0)] });
    const second = other.own(ownership(2));
    expect(await second.list(step(1))).toEqual([{ key: step(1), bytes: 6 }]);
    expect(await second.read(step(0))).toBeNull();
    expect(await second.read(step(1))).toEqual(object('', 6).bytes);
    await expect(first.write(put(object(step(2), 7)))).rejects.toMatchObject({ ...moved, details: { epoch: 2 } });
    await expect(first.list(record)).rejects.toMatchObject(moved);
    await expect(first.assertOwned()).rejects.toMatchObject(moved);
    await expect(first.end()).rejects.toMatchObject(moved);
    await second.write(put(object(step(2), 8)));
    const third = storage.own(ownership(3));
    expect(await third.list(step(2))).toEqual([{ key: step(2), bytes: 8 }]);
    expect(await third.read(record)).toEqual(object('', 3).bytes);
    await expect(other.own(ownership(2)).list(record)).rejects.toMatchObject({ ...moved, details: { epoch: 3 } });
  });

  it('writes nothing that the next one would not look for', async () => {
    const { ownership } = newSession();
    await expect(storage.own(ownership(1)).write(put(object('steps/another/0', 3)))).rejects.toThrow(
      /no object of this/,
    );
  });

  it('finds what was written before anybody owned it, and overwrites it', async () => {
    const { ownership, record } = newSession();
    await storage.write(put(object(record, 4)));
    const first = storage.own(ownership(1));
    expect(await first.read(record)).toEqual(object('', 4).bytes);
    await first.write(put(object(record, 5)));
    expect(await other.own(ownership(2)).read(record)).toEqual(object('', 5).bytes);
  });

  it('what has ended is gone for everybody', async () => {
    const { ownership, record, step } = newSession();
    const first = storage.own(ownership(1));
    await first.write(put(object(record, 3), object(step(0), 5)));
    const second = other.own(ownership(2));
    await second.end();
    await expect(first.write(put(object(step(1), 5)))).rejects.toMatchObject(moved);
    await expect(second.write(put(object(step(1), 5)))).rejects.toMatchObject(moved);
    expect(await storage.own(ownership(3)).list(record)).toEqual([]);
    expect(await storage.own(ownership(3)).list(step(0))).toEqual([]);
  });
});

describe('sqlite', () => {
  it('keeps the order of writes that are made at once', async () => {
    const storage = await sqlite(IN_MEMORY);
    await Promise.all([1, 2, 3, 4].map((size) => storage.write(put(object('race', size)))));
    expect(await storage.list('race')).toEqual([{ key: 'race', bytes: 4 }]);
    await storage.close();
  });

  it('one write that does not fit does not take others with it', async () => {
    const storage = await openSqliteStorage({
      file: IN_MEMORY,
      maximumBytes: 1_000_000,
      survives: 'process',
      isShared: false,
    });
    const results = await Promise.allSettled([
      storage.write(put(object('a', 100_000))),
      storage.write(put(object('b', 1_000_000))),
      storage.write(put(object('c', 100_000))),
    ]);
    expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect(results[1]).toMatchObject({ reason: { code: 'storage_full' } });
    expect((await storage.list('')).map(({ key }) => key)).toEqual(['a', 'c']);
    // What is deleted makes room.
    await storage.write({ puts: [], deletes: ['a', 'c'] });
    await storage.write(put(object('b', 800_000)));
    await storage.close();
    await expect(storage.read('b')).rejects.toMatchObject({ code: 'storage_unavailable' });
  });
});

describe('s3', () => {
  it('two prefixes of one bucket know nothing of each other', async () => {
    const [one, two] = await Promise.all([s3({ prefix: 'one/' }), s3({ prefix: 'two/' })]);
    await one.write(put(object('key', 1)));
    expect(await two.read('key')).toBeNull();
    expect(await two.list('')).toEqual([]);
  });

  it('a bucket that does not exist is said when it is opened', async () => {
    await expect(s3({ bucket: 'nowhere' })).rejects.toThrow(/nowhere.*no such bucket/);
  });

  it('a server that has gone: storage_unavailable', async () => {
    const brief = await startS3Server();
    const storage = await openS3Storage({
      endpoint: `${brief.settings['AWS_ENDPOINT_URL_S3']!}/ddpnopt`,
      prefix: '',
      region: 'us-east-1',
      accessKeyId: 'S3RVER',
      secretAccessKey: 'S3RVER',
    });
    await brief.stop();
    const unavailable = { code: 'storage_unavailable', retryable: true };
    await expect(storage.write(put(object('key', 1)))).rejects.toMatchObject(unavailable);
    await expect(storage.read('key')).rejects.toMatchObject(unavailable);
    await expect(storage.list('')).rejects.toMatchObject(unavailable);
    await storage.close();
  });
});
