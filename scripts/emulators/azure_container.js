// Creates a container in Azurite: azure_container.js PORT ACCOUNT KEY CONTAINER. Ends with 0 also when it is there already.
const { createHmac } = require('node:crypto');
const http = require('node:http');

const [port, account, key, container] = process.argv.slice(2);
const date = new Date().toUTCString();
const version = '2021-12-02';
const path = `/${account}/${container}`;
// Shared Key: twelve standard headers, of which none is sent; the x-ms ones; the resource, whose path names the account twice.
const toSign = `PUT\n${'\n'.repeat(11)}x-ms-date:${date}\nx-ms-version:${version}\n/${account}${path}\nrestype:container`;
const signature = createHmac('sha256', Buffer.from(key, 'base64')).update(toSign).digest('base64');
const headers = { 'x-ms-date': date, 'x-ms-version': version, 'Content-Length': 0, Authorization: `SharedKey ${account}:${signature}` };
const request = http.request({ host: '127.0.0.1', port, method: 'PUT', path: `${path}?restype=container`, headers }, (response) => {
  let body = '';
  response.on('data', (chunk) => (body += chunk));
  response.on('end', () => {
    if (response.statusCode === 201 || response.statusCode === 409) return;
    console.error(`the container could not be created: ${response.statusCode} ${body}`);
    process.exitCode = 1;
  });
});
request.on('error', (error) => {
  console.error(`the emulator does not answer: ${error.message}`);
  process.exitCode = 1;
});
request.end();
