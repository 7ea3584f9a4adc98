// An OpenID Connect provider for tests: oidc-provider, whose sign-in page takes any password.
//   node provider.mjs '{"redirect_uris": ["http://localhost/admin/oidc/callback"]}'
// It prints its address when it listens, and ends with its standard input.
// The login is a name; the e-mail is NAME@example.org, and not verified if the name begins with "unverified".
// The person OTHER=NAME has the e-mail of NAME.
// GET /test-groups/NAME/GROUP,GROUP sets the groups of a person.
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const { redirect_uris: redirectUris } = JSON.parse(process.argv[2]);

const groups = new Map();
const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{ client_id: 'pygrid', client_secret: 'a secret of the client', redirect_uris: redirectUris }],
    claims: { openid: ['sub'], email: ['email', 'email_verified'], groups: ['groups'] },
    cookies: { keys: ['a key of the provider'] },
    pkce: { required: () => true },
    async findAccount(ctx, name) {
      return {
        accountId: name,
        claims: () => ({
          sub: name,
          email: `${name.split('=').pop()}@example.org`,
          email_verified: !name.startsWith('unverified'),
          groups: groups.get(name) ?? [],
        }),
      };
    },
    // Nobody is asked for consent.
    async loadExistingGrant(ctx) {
      const grant = new ctx.oidc.provider.Grant({ clientId: ctx.oidc.client.clientId, accountId: ctx.oidc.session.accountId });
      grant.addOIDCScope('openid email groups');
      await grant.save();
      return grant;
    },
  });
  const answer = provider.callback();
  server.on('request', (request, response) => {
    const [, route, name, given] = request.url.split('/');
    if (route !== 'test-groups') {
      return answer(request, response);
    }
    groups.set(name, given.split(',').filter(Boolean));
    return response.end();
  });
  console.log(issuer);
});
process.stdin.on('end', () => process.exit(0)).resume();
