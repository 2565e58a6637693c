// A token service for docker-registry: signed JSON web tokens, for everybody or for one user.
// Form: distribution's "Token Authentication Implementation" (ES256, the certificate in the header x5c).

import { createPrivateKey, createSign, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { run, type Scratch } from './images.js';

const ISSUER = 'vmfork-test';
const SERVICE = 'vmfork-registry';

export class TokenService {
  /** What it was asked for: scopes, and whether with credentials. */
  readonly requests: { scope: string; user: string | undefined }[] = [];
  readonly #server: Server;
  readonly #key: string;
  readonly #certificate: string;
  /** Section `auth` of the registry's configuration. */
  readonly registryAuth: object;

  private constructor(server: Server, key: string, certificatePath: string) {
    this.#server = server;
    this.#key = key;
    this.#certificate = readFileSync(certificatePath, 'utf8').replace(/-----.*-----|\n/g, '');
    const { port } = server.address() as AddressInfo;
    const realm = `http://127.0.0.1:${port}/token`;
    this.registryAuth = {
      token: { realm, service: SERVICE, issuer: ISSUER, rootcertbundle: certificatePath },
    };
  }

  /** Gives tokens to `user` with `password` only, or to everybody when there is none. */
  static async start(scratch: Scratch, account?: `${string}:${string}`): Promise<TokenService> {
    const [key, certificate] = [scratch.file('token.key'), scratch.file('token.crt')];
    const curve = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
    const files = ['-keyout', key, '-out', certificate, '-subj', '/CN=token', '-days', '2'];
    run('openssl', 'req', '-x509', ...curve, ...files);
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const service = new TokenService(server, readFileSync(key, 'utf8'), certificate);
    server.on('request', (request: IncomingMessage, response) => {
      const token = service.#answer(request, account);
      response.writeHead(token ? 200 : 401, { 'content-type': 'application/json' });
      response.end(JSON.stringify(token ? { token, expires_in: 300 } : { errors: [] }));
    });
    return service;
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  #answer(request: IncomingMessage, account: string | undefined): string | undefined {
    const query = new URL(request.url ?? '', 'http://localhost').searchParams;
    const scope = query.get('scope') ?? '';
    const basic = request.headers.authorization?.replace(/^Basic /, '');
    const user = basic && Buffer.from(basic, 'base64').toString();
    this.requests.push({ scope, user });
    if (account !== undefined && user !== account) return undefined;
    const [type, name, actions] = scope.split(':');
    return this.#sign([{ type, name, actions: actions?.split(',') ?? [] }]);
  }

  #sign(access: object[]): string {
    const now = Math.floor(Date.now() / 1000);
    const times = { iat: now - 10, nbf: now - 10, exp: now + 300 };
    const claims = { iss: ISSUER, aud: SERVICE, sub: 'test', jti: randomUUID(), ...times, access };
    const header = { alg: 'ES256', typ: 'JWT', x5c: [this.#certificate] };
    const part = (json: object) => Buffer.from(JSON.stringify(json)).toString('base64url');
    const signed = `${part(header)}.${part(claims)}`;
    const key = createPrivateKey(this.#key);
    const signature = createSign('sha256').update(signed).sign({ key, dsaEncoding: 'ieee-p1363' });
    return `${signed}.${signature.toString('base64url')}`;
  }
}
