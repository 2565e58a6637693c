// Pulls from a real registry (Debian's docker-registry): layers of every kind, authorization of every kind.

import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import type { ImageProgress } from '#src/oci/progress.js';
import { ImageStore } from '#src/oci/store.js';
import {
  digestOf,
  type Layers,
  makeLayout,
  readLayer,
  run,
  Scratch,
  skopeo,
} from '../../helpers/oci/images.js';
import { Registry } from '../../helpers/oci/registry.js';
import { TokenService } from '../../helpers/oci/token-service.js';

// Other processes take part, which a busy machine may keep waiting.
vi.setConfig({ testTimeout: 30_000, hookTimeout: 60_000 });

const scratch = new Scratch();
const plainHttp = ['--dest-tls-verify=false'];
let layers: Layers;
let stores = 0;

const openStore = () => ImageStore.open({ dir: scratch.file(`store${stores++}`) });

beforeAll(() => {
  // Nothing of whoever runs the tests.
  vi.stubEnv('DOCKER_CONFIG', scratch.file('no-docker-config'));
  layers = makeLayout(scratch, 'layout');
}, 60_000);

afterAll(() => {
  vi.unstubAllEnvs();
  scratch.remove();
});

describe('without authorization', () => {
  let registry: Registry;
  const source = () => `oci:${scratch.file('layout')}:v1`;

  beforeAll(async () => {
    registry = await Registry.start(scratch, 'open');
    await skopeo(source(), `docker://${registry.host}/app/gzip:v1`, ...plainHttp);
    await skopeo(
      source(),
      `docker://${registry.host}/app/docker:v1`,
      ...plainHttp,
      '--format',
      'v2s2',
    );
    const zstd = ['--dest-compress', '--dest-compress-format', 'zstd'];
    await skopeo(source(), `dir:${scratch.file('plain')}`, '--dest-decompress');
    await skopeo(`dir:${scratch.file('plain')}`, `dir:${scratch.file('zstd')}`, ...zstd);
    for (const kind of ['plain', 'zstd']) {
      // Otherwise skopeo uses the compressed layers that it knows to be in the registry.
      const exact = [...plainHttp, '--preserve-digests'];
      await skopeo(
        `dir:${scratch.file(kind)}`,
        `docker://${registry.host}/app/${kind}:v1`,
        ...exact,
      );
    }
  }, 60_000);
  afterAll(() => registry.stop());

  test.each([
    ['gzip', '.tar+gzip'],
    ['docker', '.tar.gzip'],
    ['zstd', '.tar+zstd'],
    ['plain', '.tar'],
  ])('pulls an image (%s)', async (kind, ending) => {
    const store = await openStore();
    const image = await store.pull(`${registry.host}/app/${kind}:v1`);
    expect(image.layers.map((layer) => layer.diffId)).toEqual(layers.diffIds);
    expect(image.layers.every(({ mediaType }) => mediaType.endsWith(ending))).toBe(true);
    for (const [at, path] of layers.paths.entries()) {
      expect((await readLayer(image, at)).equals(readFileSync(path))).toBe(true);
    }
    expect(image.config).toMatchObject({
      architecture: 'amd64',
      os: 'linux',
      config: { Cmd: ['/bin/sh'], Env: ['A=b'], User: '1000:100', WorkingDir: '/etc' },
    });
  });

  test('pulls by digest, and the second time asks nobody', async () => {
    const store = await openStore();
    const { digest } = await store.pull(`${registry.host}/app/gzip:v1`);
    const byDigest = await store.pull(`${registry.host}/app/gzip@${digest}`);
    expect(byDigest.digest).toBe(digest);
    const phases: string[] = [];
    const onProgress = ({ phase }: ImageProgress) => phases.push(phase);
    await store.pull(`${registry.host}/app/gzip@${digest}`, { onProgress });
    expect(phases).toEqual([]);
  });

  test('tells of progress layer by layer, and fetches a layer once only', async () => {
    const store = await openStore();
    const reports: ImageProgress[] = [];
    const onProgress = (progress: ImageProgress) => reports.push(progress);
    const image = await store.pull(`${registry.host}/app/gzip:v1`, { onProgress });
    for (const { digest, sizeBytes } of image.layers) {
      const ofLayer = reports.filter((report) => report.digest === digest);
      expect(ofLayer.at(-1)).toEqual({
        phase: 'download',
        digest,
        doneBytes: sizeBytes,
        totalBytes: sizeBytes,
      });
    }
    expect(reports[0]?.phase).toBe('resolve');
    expect(reports.at(-1)?.phase).toBe('done');
    reports.length = 0;
    await store.pull(`${registry.host}/app/gzip:v1`, { onProgress });
    expect(new Set(reports.map(({ phase }) => phase))).toEqual(
      new Set(['resolve', 'exists', 'done']),
    );
  });

  test('of an index the image for the platform is pulled, by tag and by digest', async () => {
    const { host } = registry;
    const layout = scratch.file('layout');
    run('umoci', 'tag', '--image', `${layout}:v1`, 'arm');
    run('umoci', 'config', '--image', `${layout}:arm`, '--architecture=arm64');
    await skopeo(`oci:${layout}:arm`, `docker://${host}/app/multi:arm`, ...plainHttp);
    await skopeo(source(), `docker://${host}/app/multi:amd`, ...plainHttp);
    const entries = await Promise.all(
      ['arm64', 'amd64'].map(async (architecture) => {
        const url = `http://${host}/v2/app/multi/manifests/${architecture.slice(0, 3)}`;
        const mediaType = 'application/vnd.oci.image.manifest.v1+json';
        const answer = await fetch(url, { headers: { accept: mediaType } });
        const bytes = Buffer.from(await answer.arrayBuffer());
        const platform = { os: 'linux', architecture };
        return { mediaType, digest: digestOf(bytes), size: bytes.length, platform };
      }),
    );
    const type = 'application/vnd.oci.image.index.v1+json';
    const index = JSON.stringify({ schemaVersion: 2, mediaType: type, manifests: entries });
    const put = { method: 'PUT', body: index, headers: { 'content-type': type } };
    expect((await fetch(`http://${host}/v2/app/multi/manifests/v1`, put)).status).toBe(201);
    const store = await openStore();
    const amd64 = await store.pull(`${host}/app/multi:v1`);
    expect(amd64.digest).toBe(entries[1]?.digest);
    const name = `${host}/app/multi@${digestOf(Buffer.from(index))}`;
    const arm64 = await store.pull(name, { platform: 'linux/arm64' });
    expect(arm64.config.architecture).toBe('arm64');
    const missing = store.pull(name, { platform: 'linux/riscv64' });
    await expect(missing).rejects.toMatchObject({ code: 'VMF_IMAGE_NOT_FOUND' });
  });

  test('says which image, tag or platform there is not', async () => {
    const store = await openStore();
    for (const name of ['app/none:v1', 'app/gzip:v9']) {
      await expect(store.pull(`${registry.host}/${name}`)).rejects.toMatchObject({
        code: 'VMF_IMAGE_NOT_FOUND',
        status: 404,
      });
    }
    const other = store.pull(`${registry.host}/app/gzip:v1`, { platform: 'linux/arm64' });
    await expect(other).rejects.toMatchObject({ code: 'VMF_IMAGE_UNSUPPORTED' });
    expect(await store.list()).toEqual([]);
  });

  test('is refused nothing by twenty pulls at once', async () => {
    const store = await openStore();
    const names = Array.from({ length: 20 }, (_, at) => ['gzip', 'docker', 'zstd'][at % 3]);
    const images = await Promise.all(
      names.map((name) => store.pull(`${registry.host}/app/${name}:v1`)),
    );
    expect(images).toHaveLength(20);
    expect(await store.list()).toHaveLength(3);
    expect(await store.gc()).toEqual({ removedBlobs: 0, removedRootfs: 0, freedBytes: 0 });
  });
});

describe('with a password (Basic)', () => {
  let registry: Registry;
  // bcrypt of `secret`, the only kind of hash that docker-registry takes: htpasswd -nbB -C 5 tester secret
  const htpasswd = 'tester:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n';

  beforeAll(async () => {
    writeFileSync(scratch.file('htpasswd'), htpasswd);
    const basic = { htpasswd: { realm: 'test', path: scratch.file('htpasswd') } };
    registry = await Registry.start(scratch, 'basic', basic);
    const to = `docker://${registry.host}/private/app:v1`;
    await skopeo(
      `oci:${scratch.file('layout')}:v1`,
      to,
      ...plainHttp,
      '--dest-creds',
      'tester:secret',
    );
  }, 60_000);
  afterAll(() => registry.stop());

  test('pulls with the right password only', async () => {
    const store = await openStore();
    const name = `${registry.host}/private/app:v1`;
    const auth = { username: 'tester', password: 'secret' };
    const image = await store.pull(name, { auth });
    expect(image.layers).toHaveLength(2);
    const wrong = store.pull(name, { auth: { ...auth, password: 'guess' } });
    await expect(wrong).rejects.toMatchObject({ code: 'VMF_REGISTRY_AUTH', status: 401 });
    await expect(store.pull(name)).rejects.toMatchObject({ code: 'VMF_REGISTRY_AUTH' });
    await expect(store.pull(name, { auth: null })).rejects.toMatchObject({ status: 401 });
  });

  test("finds the password in Docker's config", async () => {
    const folder = scratch.file('docker-config');
    mkdirSync(folder, { recursive: true });
    const auth = Buffer.from('tester:secret').toString('base64');
    writeFileSync(
      `${folder}/config.json`,
      JSON.stringify({ auths: { [registry.host]: { auth } } }),
    );
    vi.stubEnv('DOCKER_CONFIG', folder);
    const store = await openStore();
    await expect(store.pull(`${registry.host}/private/app:v1`)).resolves.toBeDefined();
  });

  test.each(['credHelpers', 'credsStore'])('asks the program that %s names', async (member) => {
    const folder = scratch.file(`docker-${member}`);
    mkdirSync(folder, { recursive: true });
    const helper = `${folder}/docker-credential-vmforktest`;
    const answer = '{"ServerURL":"","Username":"tester","Secret":"secret"}';
    const script = `#!/bin/sh\nread server\n[ "$1 $server" = "get ${registry.host}" ] && echo '${answer}'\n`;
    writeFileSync(helper, script);
    chmodSync(helper, 0o755);
    const names = { credHelpers: { [registry.host]: 'vmforktest' }, credsStore: 'vmforktest' };
    const config = { [member]: names[member as keyof typeof names] };
    writeFileSync(`${folder}/config.json`, JSON.stringify(config));
    vi.stubEnv('DOCKER_CONFIG', folder);
    vi.stubEnv('PATH', `${folder}:${process.env.PATH}`);
    const store = await openStore();
    await expect(store.pull(`${registry.host}/private/app:v1`)).resolves.toBeDefined();
  });
});

describe('with tokens', () => {
  let service: TokenService;
  let registry: Registry;

  beforeAll(async () => {
    service = await TokenService.start(scratch, 'tester:secret');
    registry = await Registry.start(scratch, 'tokens', service.registryAuth);
    const to = `docker://${registry.host}/team/app:v1`;
    await skopeo(
      `oci:${scratch.file('layout')}:v1`,
      to,
      ...plainHttp,
      '--dest-creds',
      'tester:secret',
    );
  }, 60_000);
  afterAll(async () => {
    service.close();
    await registry.stop();
  });

  test('fetches one token for all of an image', async () => {
    service.requests.length = 0;
    const store = await openStore();
    const auth = { username: 'tester', password: 'secret' };
    const image = await store.pull(`${registry.host}/team/app:v1`, { auth });
    expect(image.layers).toHaveLength(2);
    expect(service.requests).toEqual([
      { scope: 'repository:team/app:pull', user: 'tester:secret' },
    ]);
  });

  test('tells when no token is given', async () => {
    const store = await openStore();
    const pull = store.pull(`${registry.host}/team/app:v1`, { auth: null });
    await expect(pull).rejects.toMatchObject({ code: 'VMF_REGISTRY_AUTH', status: 401 });
  });

  test('takes a token from the caller', async () => {
    const store = await openStore();
    const query = 'service=vmfork-registry&scope=repository:team/app:pull';
    const { realm } = (service.registryAuth as { token: { realm: string } }).token;
    const headers = { authorization: `Basic ${Buffer.from('tester:secret').toString('base64')}` };
    const { token } = (await (await fetch(`${realm}?${query}`, { headers })).json()) as {
      token: string;
    };
    const auth = { registryToken: token };
    await expect(store.pull(`${registry.host}/team/app:v1`, { auth })).resolves.toBeDefined();
  });
});
