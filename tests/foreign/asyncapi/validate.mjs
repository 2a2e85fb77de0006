// Validate a document: node validate.mjs FILE. Prints what is wrong, and fails where anything is.
import { readFileSync } from 'node:fs';
import { Parser } from '@asyncapi/parser';

const WARNING = 1; // errors are 0; a hint that a newer version of AsyncAPI exists is 2
const { diagnostics } = await new Parser().parse(readFileSync(process.argv[2], 'utf8'));
const wrong = diagnostics.filter(({ severity }) => severity <= WARNING);
for (const { path, message } of wrong) console.log(`${path.join('.')}: ${message}`);
process.exitCode = wrong.length > 0 ? 1 : 0;
