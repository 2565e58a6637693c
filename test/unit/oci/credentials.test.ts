// Which of Docker's credentials are for which registry.

import { mkdirSync, writeFileSync } from 'node:fs';
import { afterAll, afterEach, expect, test, vi } from 'vitest';
import { dockerCredentials } from '#src/oci/credentials.js';
import { Scratch } from '../../helpers/oci/images.js';

const scratch = new Scratch();
afterEach(() => vi.unstubAllEnvs());
afterAll(() => scratch.remove());

const hub = 'https://index.docker.io/v1/';
const login = (name: string) => ({ auth: Buffer.from(`${name}:secret`).toString('base64') });
const account = (username: string) => ({ username, password: 'secret' });

function find(registry: string, config: object) {
  const folder = scratch.file('docker');
  mkdirSync(folder, { recursive: true });
  writeFileSync(`${folder}/config.json`, JSON.stringify(config));
  vi.stubEnv('DOCKER_CONFIG', folder);
  return dockerCredentials(registry);
}

test.each([
  [hub],
  ['https://index.docker.io/v1'],
  ['index.docker.io'],
  ['docker.io'],
  ['registry-1.docker.io/v2/'],
])('%s is Docker Hub', async (key) => {
  expect(await find('docker.io', { auths: { [key]: login('me') } })).toEqual(account('me'));
});

test.each([[`${hub}access-token`], [`${hub}refresh-token`], ['docker.io/somebody']])(
  '%s is not',
  async (key) => {
    const auths = { [key]: login('other'), [hub]: login('me') };
    expect(await find('docker.io', { auths })).toEqual(account('me'));
    expect(await find('docker.io', { auths: { [key]: login('other') } })).toBeUndefined();
  },
);

test('another registry is found by its host, whatever the path', async () => {
  const auths = { 'https://r.example:5000/v1/': login('me'), 'r.example': login('other') };
  expect(await find('r.example:5000', { auths })).toEqual(account('me'));
});

test('members that are null are as if they were not there', async () => {
  const nothing = { auths: null, credHelpers: null, credsStore: null };
  expect(await find('docker.io', nothing)).toBeUndefined();
  const entry = { ...login('me'), identitytoken: null, registrytoken: null };
  const auths = { 'a.example': null, 'b.example': entry };
  expect(await find('a.example', { ...nothing, auths })).toBeUndefined();
  expect(await find('b.example', { ...nothing, auths })).toEqual(account('me'));
});
