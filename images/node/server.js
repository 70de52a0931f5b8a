// SPDX-License-Identifier: Apache-2.0
//
// server.js PORT RECORDS: answers GET /record/N, /packed/N (deflated by libuv's threads, in hexadecimal),
// /hash/N (SHA-256 of the record, by a worker thread of its own heap), /sum (SHA-256 of all records; walks the
// heap, collects garbage if it may) and /ticks (of a timer, ten a second).
'use strict';
const crypto = require('crypto');
const http = require('http');
const { promisify } = require('util');
const { Worker, isMainThread, parentPort } = require('worker_threads');
const deflate = promisify(require('zlib').deflate);

function sha256(text) {
    return crypto.createHash('sha256').update(text).digest('hex');
}

function record(number) {
    let text = '';
    for (let part = 0; part < 16; part++)
        text += sha256(`${number}/${part}`);
    return text;
}

function work() {
    parentPort.on('message', ({ id, text }) => parentPort.postMessage({ id, hash: sha256(text) }));
}

function hasher() {
    const waiting = new Map();
    const worker = new Worker(__filename);
    let last = 0;
    worker.on('message', ({ id, hash }) => {
        waiting.get(id)(hash);
        waiting.delete(id);
    });
    return (text) => new Promise((resolve) => {
        waiting.set(++last, resolve);
        worker.postMessage({ id: last, text });
    });
}

function serve(port, count) {
    const records = new Map();
    for (let number = 0; number < count; number++)
        records.set(number, { number, text: record(number), tags: [number % 7, number % 11] });
    const hash = hasher();
    let ticks = 0;
    setInterval(() => ticks++, 100);

    async function answer(kind, number) {
        switch (kind) {
        case 'record':
            return records.get(number).text;
        case 'packed':
            return (await deflate(records.get(number).text)).toString('hex');
        case 'hash':
            return hash(records.get(number).text);
        case 'sum': {
            if (global.gc)
                global.gc();
            const all = crypto.createHash('sha256');
            for (const { text } of records.values())
                all.update(text);
            return all.digest('hex');
        }
        case 'ticks':
            return String(ticks);
        default:
            throw new Error(`no ${kind} here`);
        }
    }

    const server = http.createServer((request, response) => {
        const [, kind, number] = request.url.split('/');
        answer(kind, Number(number)).then(
            (text) => response.end(text),
            (error) => { response.statusCode = 500; response.end(String(error)); });
    });
    // CLOCK_MONOTONIC goes on between checkpoint and restore, and node ends what was idle for 5 s by it.
    server.keepAliveTimeout = 300e3;
    server.listen(port, '127.0.0.1');
}

if (isMainThread)
    serve(Number(process.argv[2]), Number(process.argv[3]));
else
    work();
