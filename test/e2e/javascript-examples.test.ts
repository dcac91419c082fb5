/** The JavaScript examples run as they stand, on real data: in Node, and in a browser where there is one. */
import { execFile, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { build } from 'esbuild';
import { describe, expect, it } from 'vitest';
import { serveTests } from './stack.ts';

const ROOT = path.join(import.meta.dirname, '../..');

const stack = serveTests({ engine: 'wasm' });

// Each example knows both modes; tfjs.test.ts has the other two.
it('tfjs-node.mjs trains, and the model keeps what it has learnt', async () => {
  const arguments_ = ['examples/tfjs-node.mjs', stack.url, 'hosted'];
  const { stdout } = await promisify(execFile)(process.execPath, arguments_, { cwd: ROOT });
  const accuracies = [...stdout.matchAll(/test accuracy ([0-9.]+) %/g)].map((match) => Number(match[1]));
  // Three epochs, TensorFlow.js's own evaluation of the same model, and Adam.
  expect(accuracies).toHaveLength(5);
  expect(accuracies[2]).toBeGreaterThan(90);
  expect(accuracies[3]).toBe(accuracies[2]);
  expect(stdout).toMatch(/72 steps, \d+ KB each/);
});

/** Debian's, and what others call it. */
const BROWSER = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find((file) =>
  existsSync(file),
);

describe('browser.html', () => {
  /** One ES module of sources: TensorFlow.js without a GPU, or the client as the package has it in one file. */
  async function bundle(contents: string): Promise<string> {
    const { outputFiles } = await build({
      stdin: { contents, resolveDir: ROOT },
      bundle: true,
      write: false,
      format: 'esm',
      platform: 'browser',
      mainFields: ['module', 'main'],
      logLevel: 'error',
    });
    return outputFiles[0]!.text;
  }

  /** The page as it is but for where its modules come from, since there may be no network; and it tells what it trained. */
  async function servePage(): Promise<{ url: string; trained: Promise<unknown>; close: () => void }> {
    const [tensorflow, client, page] = await Promise.all([
      bundle("import '@tensorflow/tfjs-backend-cpu'; export * from '@tensorflow/tfjs-core'; export * from '@tensorflow/tfjs-layers';"),
      bundle("export * from './clients/js/standalone.ts';"),
      readFile(path.join(ROOT, 'examples/browser.html'), 'utf8'),
    ]); // prettier-ignore
    const imports = { '@tensorflow/tfjs': '/tensorflow.js', ddpnopt: '/client.js' };
    const tell =
      "addEventListener('trained', ({ detail }) => fetch('/trained', { method: 'POST', body: JSON.stringify(detail) }));";
    const files: Record<string, [type: string, content: string | Buffer]> = {
      '/examples/browser.html': [
        'text/html',
        page
          .replace(/<script type="importmap">.*?<\/script>/s, `<script type="importmap">${JSON.stringify({ imports })}</script>`)
          .replace('</head>', `<script>${tell}</script></head>`),
      ],
      '/tensorflow.js': ['text/javascript', tensorflow],
      '/client.js': ['text/javascript', client],
      '/clients/datasets/digits/digits.csv.gz': ['application/gzip', await readFile(path.join(ROOT, 'clients/datasets/digits/digits.csv.gz'))],
    }; // prettier-ignore
    let finish: (result: unknown) => void;
    const trained = new Promise<unknown>((resolve) => {
      finish = resolve;
    });
    const server = createServer((request, response) => {
      const { pathname } = new URL(request.url!, 'http://localhost');
      if (pathname === '/trained') {
        const chunks: Buffer[] = [];
        request.on('data', (chunk: Buffer) => chunks.push(chunk));
        request.on('end', () => {
          response.end();
          finish(JSON.parse(Buffer.concat(chunks).toString()));
        });
        return;
      }
      const [type, content] = files[pathname] ?? ['text/plain', ''];
      response.writeHead(pathname in files ? 200 : 404, { 'content-type': type }).end(content);
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const { port } = server.address() as AddressInfo;
    const url = `http://127.0.0.1:${port}/examples/browser.html`;
    return { url, trained, close: () => { server.closeAllConnections(); server.close(); } }; // prettier-ignore
  }

  it('trains in a page of another origin', async (context) => {
    const page = await servePage();
    const profile = await mkdtemp(path.join(tmpdir(), 'ddpnopt-browser-'));
    try {
      if (BROWSER === undefined) {
        context.skip('the page was bundled and not run: there is no Chromium (Debian: chromium)');
        return;
      }
      const flags = ['--headless=new', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking', `--user-data-dir=${profile}`]; // prettier-ignore
      const address = `${page.url}?service=${encodeURIComponent(stack.url)}&mode=layers`;
      const browser = spawn(BROWSER, [...flags, address], { stdio: 'ignore' });
      const ended = new Promise<void>((resolve) => browser.once('close', () => { resolve(); })); // prettier-ignore
      try {
        const result = await Promise.race([page.trained, ended.then(() => ({ error: 'the browser ended' }))]);
        expect(result).not.toHaveProperty('error');
        const { loss, val_acc: accuracy } = result as { loss: number[]; val_acc: number[] };
        expect(loss).toHaveLength(3);
        expect(accuracy.at(-1)).toBeGreaterThan(0.9);
      } finally {
        browser.kill();
        await ended;
      }
    } finally {
      page.close();
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    }
  });
});
