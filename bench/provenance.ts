/** Where a measurement comes from. */
import { execFileSync } from 'node:child_process';
import { arch, cpus, platform } from 'node:os';

export interface Provenance {
  readonly machine: string;
  readonly revision: string;
  readonly engine: string;
}

export function provenance(engine: string): Provenance {
  return {
    machine: `${String(cpus().length)} × ${cpus()[0]?.model.trim() ?? 'unknown processor'}, ${platform()} ${arch()}, Node ${process.versions.node}`,
    revision: execFileSync('git', ['rev-parse', '--short', 'HEAD'], { encoding: 'utf8' }).trim(),
    engine,
  };
}
