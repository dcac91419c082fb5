/**
 * Loaded before every command: the sources are TypeScript that Node runs as it is, which takes Node 22.18 or newer. `npm ci`
 * brings a Node 22 for the usual platforms; elsewhere the one on the PATH has to be new enough.
 */
const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
if (major < 22 || (major === 22 && minor < 18)) {
  process.stderr.write(
    `This is Node ${process.versions.node}; the service needs 22.18 or newer.\n` +
      'npm ci installs one for Linux and macOS unless optional packages are omitted; otherwise install Node 22 and try again.\n',
  );
  process.exit(1);
}
