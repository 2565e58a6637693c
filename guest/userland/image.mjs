// Packs busybox as an OCI image, so that a container can run where there is no registry: an OCI layout in
// a tar file (image-spec, image-layout.md) with one uncompressed layer. The same inputs give the same bytes.
import { createHash } from 'node:crypto';
import { chmodSync, linkSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { runTool } from '../lib/tools.mjs';

const name = 'busybox:latest';
const mediaType = 'application/vnd.oci.image';
const modes = {
  dev: 0o755,
  etc: 0o755,
  home: 0o755,
  proc: 0o555,
  root: 0o700,
  run: 0o755,
  sys: 0o555,
  tmp: 0o1777,
  usr: 0o755,
  var: 0o755,
  'var/tmp': 0o1777,
};
const files = {
  'etc/passwd':
    'root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\nnobody:x:65534:65534:nobody:/home:/bin/false\n',
  'etc/group': 'root:x:0:\ndaemon:x:1:\nusers:x:100:\nnogroup:x:65534:\n',
  'etc/nsswitch.conf': 'hosts: files dns\n',
};
const path = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';

/** Writes the image to `output`; `applets` are busybox's names as `busybox --list-full` gives them. */
export async function makeBusyboxImage(busybox, applets, output) {
  const work = `${output}.work`;
  mkdirSync(join(work, 'tree'), { recursive: true });
  mkdirSync(join(work, 'layout/blobs/sha256'), { recursive: true });
  populate(join(work, 'tree'), busybox, applets);
  const layer = join(work, 'layer.tar');
  await packTar(join(work, 'tree'), layer);
  await packLayout(join(work, 'layout'), layer, output);
  rmSync(work, { recursive: true });
}

function populate(tree, busybox, applets) {
  const programs = applets.filter((applet) => applet !== 'bin/busybox');
  const folders = new Set([...Object.keys(modes), ...programs.map((applet) => dirname(applet))]);
  for (const folder of ['.', ...folders]) {
    mkdirSync(join(tree, folder), { recursive: true });
    chmodSync(join(tree, folder), modes[folder] ?? 0o755); // whatever the umask
  }
  for (const [file, content] of Object.entries(files)) add(join(tree, file), content, 0o644);
  const program = join(tree, 'bin/busybox');
  add(program, readFileSync(busybox), 0o755);
  for (const applet of programs) linkSync(program, join(tree, applet));
}

function add(file, content, mode) {
  writeFileSync(file, content);
  chmodSync(file, mode);
}

/** Everything that varies from one machine to the next is fixed: order, owners, times; modes are the tree's. */
async function packTar(folder, output) {
  const fixed = ['--sort=name', '--owner=0', '--group=0', '--numeric-owner', '--mtime=@0'];
  const pax = ['--format=pax', '--pax-option=delete=atime,delete=ctime'];
  await runTool('tar', [...pax, ...fixed, '-C', folder, '-cf', output, '.']);
}

async function packLayout(layout, layer, output) {
  const addBlob = (content, kind) => {
    const digest = createHash('sha256').update(content).digest('hex');
    writeFileSync(join(layout, 'blobs/sha256', digest), content);
    const type = `${mediaType}.${kind}`;
    return { mediaType: type, digest: `sha256:${digest}`, size: content.length };
  };
  const addJson = (value, kind) => addBlob(Buffer.from(JSON.stringify(value)), kind);
  const layerBlob = addBlob(readFileSync(layer), 'layer.v1.tar');
  const created = '1970-01-01T00:00:00Z';
  const config = addJson(
    {
      created,
      architecture: 'amd64',
      os: 'linux',
      config: { Env: [`PATH=${path}`], Cmd: ['sh'] },
      rootfs: { type: 'layers', diff_ids: [layerBlob.digest] },
      history: [{ created, comment: 'busybox-static' }],
    },
    'config.v1+json',
  );
  const manifest = { schemaVersion: 2, mediaType: `${mediaType}.manifest.v1+json` };
  const descriptor = addJson({ ...manifest, config, layers: [layerBlob] }, 'manifest.v1+json');
  const annotations = { 'org.opencontainers.image.ref.name': name };
  const index = { schemaVersion: 2, mediaType: `${mediaType}.index.v1+json` };
  const manifests = [{ ...descriptor, annotations }];
  writeFileSync(join(layout, 'index.json'), JSON.stringify({ ...index, manifests }));
  writeFileSync(join(layout, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  await packTar(layout, output);
}
