#!/usr/bin/env node
/** `npx sophia-ai`, or `sophia`: the command line. */

import { commandLine } from '../native.js'

process.exit(commandLine(['sophia', ...process.argv.slice(2)]))
