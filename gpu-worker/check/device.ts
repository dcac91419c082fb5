/** The GPU as the driver describes it. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';

const KERNEL_MODULE = '/proc/driver/nvidia/version';

export interface NvidiaDriver {
  /** "550.54.15". */
  readonly version: string;
  /** Name, memory and compute capability of each GPU, in words; empty where its tool is not there to ask. */
  readonly devices: readonly string[];
}

/** null without a driver. */
export function nvidiaDriver(): NvidiaDriver | null {
  const query = ['--query-gpu=driver_version,name,memory.total,compute_cap', '--format=csv,noheader'];
  const { status, stdout } = spawnSync('nvidia-smi', query, { encoding: 'utf8' });
  if (status === 0) {
    const rows = stdout.trim().split('\n').map((row) => row.split(', ')); // prettier-ignore
    const devices = rows.map(([, name = '', memory = '', capability = '']) => `${name}, ${memory}, compute capability ${capability}`); // prettier-ignore
    return { version: rows[0]?.[0] ?? 'unknown', devices };
  }
  if (!existsSync(KERNEL_MODULE)) return null;
  const version = /Kernel Module\s+(?:for \S+\s+)?(\d[\d.]*)/.exec(readFileSync(KERNEL_MODULE, 'utf8'))?.[1];
  return { version: version ?? 'unknown', devices: [] };
}
