/** A TCP proxy that breaks a connection at a byte of the test's choice. */
import { connect, createServer, type AddressInfo, type Socket } from 'node:net';

/** Where the next request's connection ends: when so many bytes of that side have passed. */
export interface Cut {
  readonly side: 'request' | 'answer';
  /** Bytes that still pass, given the side's whole bytes; counted from the moment the cut is set. */
  readonly bytes: number;
}

export interface CuttingProxy {
  readonly url: string;
  /** Cuts once. Null: lets everything through. */
  readonly set: (cut: Cut | null) => void;
  /** What has passed since the last call of `set`, and whether the cut has been made. */
  readonly passed: () => { readonly request: Buffer; readonly answer: Buffer; readonly hasCut: boolean };
  readonly close: () => void;
}

export async function startCuttingProxy(target: string): Promise<CuttingProxy> {
  const { hostname, port } = new URL(target);
  const sockets = new Set<Socket>();
  let cut: Cut | null = null;
  let hasCut = false;
  let chunks: Record<Cut['side'], Buffer[]> = { request: [], answer: [] };
  const length = (side: Cut['side']) => chunks[side].reduce((sum, chunk) => sum + chunk.length, 0);

  const server = createServer((client) => {
    const service = connect(Number(port), hostname);
    const breakOff = (): void => {
      client.resetAndDestroy();
      service.resetAndDestroy();
    };
    const pass = (side: Cut['side'], from: Socket, to: Socket): void => {
      sockets.add(from);
      from.on('data', (chunk: Buffer) => {
        const room = cut?.side === side ? cut.bytes - length(side) : Infinity;
        const part = chunk.subarray(0, Math.max(0, room));
        chunks[side].push(part);
        if (chunk.length < room) {
          to.write(part);
          return;
        }
        cut = null;
        hasCut = true;
        // What passes arrives before the connection breaks.
        to.write(part, breakOff);
      });
      from.on('error', breakOff);
      from.on('close', () => {
        sockets.delete(from);
        to.destroy();
      });
    };
    pass('request', client, service);
    pass('answer', service, client);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    set: (next) => {
      cut = next;
      hasCut = false;
      chunks = { request: [], answer: [] };
    },
    passed: () => ({ request: Buffer.concat(chunks.request), answer: Buffer.concat(chunks.answer), hasCut }),
    close: () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    },
  };
}
