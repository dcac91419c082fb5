import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';

/** Whether this machine has an NVIDIA driver: its kernel module, or where that is not to be seen (WSL) a GPU that its tool lists. */
export function hasNvidiaDriver(): boolean {
  return existsSync('/proc/driver/nvidia/version') || spawnSync('nvidia-smi', ['-L'], { stdio: 'ignore' }).status === 0;
}
