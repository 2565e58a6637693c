// Token services of all kinds: OAuth2 with an identity token, ones that redirect, tokens that end in the middle of a pull.

import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { ImageStore } from '#src/oci/store.js';
import { digestOf, readLayer, Scratch } from '../../helpers/oci/images.js';
import {
  makeImage,
  OddRegistry,
  type Request,
  type Spoil,
} from '../../helpers/oci/odd-registry.js';

// Other processes take part, which a busy machine may keep waiting.
vi.setConfig({ testTimeout: 30_000 });

const scratch = new Scratch();
const retry = { attempts: 2, delayMs: 1 };
const image = makeImage('tokens');
const layerDigest = digestOf(image.layer);
const identityToken = 'refresh-secret';
let registry: OddRegistry;
let service: OddRegistry;
let elsewhere: OddRegistry;
/** Tokens that the registry takes. */
const valid = new Set<string>();
let stores = 0;

const bearer = ({ headers }: Request) => headers.authorization?.replace(/^Bearer /, '') ?? '';
const open = () => ImageStore.open({ dir: scratch.file(`store${stores++}`) });

/** Asks for a token of the service at `realm` before anything else. */
const demand = (realm: () => string): Spoil => {
  return (request, response) => {
    if (request.path === '/v2/' || valid.has(bearer(request))) return false;
    const challenge = `Bearer realm="${realm()}",service="registry"`;
    response.writeHead(401, { 'www-authenticate': challenge }).end();
    return true;
  };
};

/** Gives tokens t1, t2, …, which the registry takes. */
const giveTokens = (member: string, lifeS: number): Spoil => {
  return (_, response) => {
    valid.add(`t${service.requests.length}`);
    const answer = { [member]: `t${service.requests.length}`, expires_in: lifeS };
    response.end(JSON.stringify(answer));
    return true;
  };
};

const redirectTo = (status: number, location: () => string): Spoil => {
  return (_, response) => {
    response.writeHead(status, { location: location() }).end();
    return true;
  };
};

const pull = async (auth: NonNullable<Parameters<ImageStore['pull']>[1]>['auth']) =>
  (await open()).pull(`${registry.host}/odd/app:v1`, { auth, retry });

beforeAll(async () => {
  registry = await OddRegistry.start();
  service = await OddRegistry.start();
  elsewhere = await OddRegistry.start();
});
beforeEach(() => {
  valid.clear();
  registry.serve(image);
  registry.spoil = demand(() => `http://${service.host}/token`);
  service.requests.length = 0;
  service.spoil = giveTokens('access_token', 300);
  elsewhere.requests.length = 0;
});
afterAll(() => {
  for (const each of [registry, service, elsewhere]) each.close();
  scratch.remove();
});

describe('an identity token', () => {
  test('is exchanged for an access token, once for all of an image', async () => {
    const pulled = await pull({ identityToken });
    expect((await readLayer(pulled, 0)).equals(image.plain)).toBe(true);
    expect(service.requests).toMatchObject([{ method: 'POST', path: '/token' }]);
    const [{ headers, body } = { headers: {}, body: '' }] = service.requests;
    expect(headers.authorization).toBeUndefined();
    expect(Object.fromEntries(new URLSearchParams(body))).toEqual({
      grant_type: 'refresh_token',
      client_id: 'vmfork',
      refresh_token: identityToken,
      service: 'registry',
      scope: 'repository:odd/app:pull',
    });
    expect(JSON.stringify(registry.requests)).not.toContain(identityToken);
  });

  test('that is refused is an error, which does not show it', async () => {
    service.spoil = (_, response) => {
      response.writeHead(401).end();
      return true;
    };
    const failure = await pull({ identityToken }).catch((error) => error);
    expect(failure).toMatchObject({ code: 'VMF_REGISTRY_AUTH', status: 401 });
    expect(`${failure.stack}`).not.toContain(identityToken);
  });

  test.each([301, 302, 303, 307, 308])(
    'does not follow a redirect (%i) to another host',
    async (status) => {
      service.spoil = redirectTo(status, () => `http://${elsewhere.host}/token`);
      await expect(pull({ identityToken })).rejects.toMatchObject({
        code: 'VMF_REGISTRY',
        message: expect.stringContaining('redirects to'),
      });
      expect(elsewhere.requests).toEqual([]);
    },
  );

  test('follows one within its host', async () => {
    const give = giveTokens('token', 300);
    service.spoil = (request, ...rest) =>
      request.path === '/token'
        ? redirectTo(307, () => '/other')(request, ...rest)
        : give(request, ...rest);
    await pull({ identityToken });
    expect(service.requests.map(({ path }) => path)).toEqual(['/token', '/other']);
    expect(service.requests[1]?.body).toContain(identityToken);
  });
});

describe('a token that ends in the middle of a pull', () => {
  test('is followed by another, and the download goes on', async () => {
    const ask = demand(() => `http://${service.host}/token`);
    registry.spoil = (request, response, content = Buffer.of()) => {
      if (ask(request, response, content)) return true;
      if (!request.path.endsWith(layerDigest) || request.headers.range) return false;
      valid.clear();
      response.writeHead(200, { 'content-length': content.length });
      response.write(content.subarray(0, 40_000), () => response.destroy());
      return true;
    };
    const pulled = await pull({ username: 'me', password: 'secret' });
    expect((await readLayer(pulled, 0)).equals(image.plain)).toBe(true);
    const asked = registry.asked('blobs', layerDigest);
    expect(asked.map((request) => [bearer(request), request.headers.range])).toEqual([
      ['t1', undefined],
      ['t1', 'bytes=40000-'],
      ['t2', 'bytes=40000-'],
    ]);
    expect(service.requests).toHaveLength(2);
  });

  test('is an error when no other is given', async () => {
    valid.add('mine');
    registry.spoil = (request, response, content) => {
      if (request.path.endsWith(layerDigest)) valid.clear();
      return demand(() => `http://${service.host}/token`)(request, response, content);
    };
    await expect(pull({ registryToken: 'mine' })).rejects.toMatchObject({
      code: 'VMF_REGISTRY_AUTH',
      status: 401,
    });
    expect(service.requests).toEqual([]);
  });
});

describe('plain HTTP', () => {
  const auth = { username: 'me', password: 'secret' };

  test('is used for no other host than the registry’s, for tokens', async () => {
    registry.spoil = demand(() => 'http://tokens.invalid/token');
    await expect(pull(auth)).rejects.toMatchObject({
      code: 'VMF_REGISTRY_AUTH',
      message: expect.stringContaining('names "http://tokens.invalid/token" as token service'),
    });
  });

  test('is used for no other host, for layers', async () => {
    const location = `http://cdn.invalid/${layerDigest}`;
    registry.spoil = (request, ...rest) =>
      request.path.endsWith(layerDigest) && redirectTo(307, () => location)(request, ...rest);
    await expect(pull(null)).rejects.toMatchObject({
      code: 'VMF_REGISTRY',
      message: expect.stringContaining(`redirects to "${location}"`),
    });
  });
});
