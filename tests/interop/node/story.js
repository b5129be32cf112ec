// The story, told with nacos for Node.js: HTTP v1.
'use strict';

const assert = require('node:assert');
const readline = require('node:readline');
const { setTimeout: sleep } = require('node:timers/promises');
const { NacosNamingClient, NacosConfigClient } = require('nacos');

const { SERVER, RUN, ORDERS, USER_NAME: username, PASS_WORD: password } = process.env;
const [WEB, VAULT, APP] = ['web', 'vault', 'app'].map(name => `${name}-${RUN}`);
const DEFAULT = 'DEFAULT_GROUP';
const GROUP = 'INTEROP';

const logger = { ...console, log: console.error, info: console.error, debug() {} };
const naming = new NacosNamingClient({ logger, serverList: SERVER, namespace: 'public', username, password });
const config = new NacosConfigClient({ serverAddr: SERVER, username, password });

// What the listeners were told last.
let hosts = [];
let content = '';

const steps = {
  async list() {
    const metadata = { version: '1.4', zone: 'a b&c' };
    await naming.registerInstance(WEB, { ...place('10.1.0.1', 8080), weight: 2.5, metadata });
    await eventually(async () => {
      const [it, ...others] = await instances(WEB);
      return it && !others.length && it.ip === '10.1.0.1' && it.weight === 2.5 && it.healthy && it.clusterName === 'BLUE'
        && it.metadata.version === '1.4' && it.metadata.zone === 'a b&c';
    });
    await please('expect', WEB, '10.1.0.1:8080', 'weight=2.5', 'clusterName=BLUE', 'version=1.4');
  },

  async agent() {
    await eventually(async () => addresses(await instances('orders', 'DEFAULT')).includes(ORDERS));
  },

  async told() {
    // Without clusters the library asks for `DEFAULT` alone, and it never looks again at what it was asked to list before.
    naming.subscribe({ serviceName: WEB, clusters: 'BLUE,DEFAULT' }, told => { hosts = addresses(told); });
    await please('add', WEB, '10.2.0.1:9090');
    await soon(() => hosts.join() === '10.1.0.1:8080,10.2.0.1:9090');
    await please('remove', WEB, '10.2.0.1:9090');
    await soon(() => hosts.join() === '10.1.0.1:8080');
  },

  async config() {
    assert(!await config.getConfig(`missing-${RUN}`, GROUP));
    assert(await config.publishSingle(APP, GROUP, 'greeting: 你好'));
    await please('content', APP, 'greeting: 你好');
    assert.equal(await config.getConfig(APP, GROUP), 'greeting: 你好');
    config.subscribe({ dataId: APP, group: GROUP }, told => { content = told; });
    for (const change of ['greeting: bonjour', 'greeting: hola']) {
      await please('publish', APP, change);
      await eventually(() => content === change);
    }
  },

  async gone() {
    assert(await config.remove(APP, GROUP));
    await eventually(async () => !content && !await config.getConfig(APP, GROUP));
  },

  async kept() {
    const vault = { ...place('10.1.0.4', 8200), ephemeral: false };
    await naming.registerInstance(VAULT, vault);
    await please('expect', VAULT, '10.1.0.4:8200', 'ephemeral=false');
    await naming.deregisterInstance(VAULT, vault);
    await please('gone', VAULT, '10.1.0.4:8200');
  },

  async left() {
    await naming.deregisterInstance(WEB, place('10.1.0.1', 8080));
    // The library takes no empty list: it goes on to show the one before.
    await please('gone', WEB, '10.1.0.1:8080');
  },

  // The registry is killed and comes back empty: what the library says again by itself, and what it still hears.
  async back() {
    await naming.registerInstance(WEB, place('10.1.0.1', 8080));
    assert(await config.publishSingle(APP, GROUP, 'greeting: hello'));
    await eventually(() => content === 'greeting: hello' && hosts.includes('10.1.0.1:8080'));
    await please('restart');
    await please('expect', WEB, '10.1.0.1:8080');
    await please('add', WEB, '10.2.0.2:9090');
    await eventually(() => hosts.includes('10.2.0.2:9090'));
    await please('publish', APP, 'greeting: salut');
    await eventually(() => content === 'greeting: salut');
  },
};

function place(ip, port) {
  return { ip, port, clusterName: 'BLUE' };
}

function instances(service, clusters = 'BLUE') {
  return naming.getAllInstances(service, DEFAULT, clusters, false);
}

function addresses(instances) {
  return instances.map(it => `${it.ip}:${it.port}`).sort();
}

function eventually(condition) {
  return within(35, condition);
}

// What a push tells, and not the next look, which is up to 10 s away.
function soon(condition) {
  return within(3, condition);
}

async function within(seconds, condition) {
  for (const end = Date.now() + seconds * 1_000; !await condition(); await sleep(50)) {
    assert(Date.now() < end, `not within ${seconds} s`);
  }
}

const answers = readline.createInterface({ input: process.stdin })[Symbol.asyncIterator]();

// Asks the runner, who stands outside with plain HTTP, to do or to see something.
async function please(...deed) {
  console.log('please', ...deed);
  const { value } = await answers.next();
  assert(value === 'yes', value);
}

async function main() {
  await naming.ready();
  let failed = false;
  for (const [name, step] of Object.entries(steps)) {
    try {
      await step();
      console.log('ok', name);
    } catch (e) {
      failed = true;
      const [line] = e.stack.split('\n').filter(it => it.includes(`.${name} (`));
      console.log(`FAIL ${name}: ${e.message.split('\n')[0]} ${line?.trim()}, told ${hosts}, content ${content}`);
    }
  }
  process.exit(failed ? 1 : 0);
}

main();
