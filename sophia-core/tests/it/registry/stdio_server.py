"""A small MCP server over stdio, of the era of `initialize`, with the faults that tests need.

`--modern` speaks revision 2026-07-28 only; `--shy` leaves at a word that it does not know, `--mute` says nothing to it;
`--slow` takes its time to start; `--linger` does not leave. Each start is a line in the file `STARTS`.
"""
import json, os, subprocess, sys, threading, time

lock = threading.Lock()
if "STARTS" in os.environ:
    with open(os.environ["STARTS"], "a") as starts:
        print(os.getpid(), file=starts)
if "--slow" in sys.argv:
    time.sleep(2)


def send(**message):
    with lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def call(id, name, args):
    text, failed = "", False
    if name == "echo":
        text = args["message"]
    elif name == "pid":
        text = str(os.getpid())
    elif name == "env":
        text = json.dumps(dict(os.environ))
    elif name == "sleep":
        time.sleep(args["seconds"])
        text = "slept"
    elif name == "big":
        text = "x" * args["size"]
    elif name == "exit":
        print("about to fall over", file=sys.stderr, flush=True)
        os._exit(3)
    elif name == "child":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdin=subprocess.DEVNULL)
        text = str(child.pid)
    elif name == "fail":
        text, failed = "no such deal", True
    else:
        return send(id=id, error={"code": -32602, "message": f"unknown tool: {name}"})
    send(id=id, result={**COMPLETE, "content": [{"type": "text", "text": text}], "isError": failed})


MODERN = "--modern" in sys.argv
COMPLETE = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"} if MODERN else {}

for line in sys.stdin:
    message = json.loads(line)
    id, method, params = message.get("id"), message.get("method"), message.get("params") or {}
    if id is None:
        continue
    if MODERN and params.get("_meta", {}).get("io.modelcontextprotocol/protocolVersion") != "2026-07-28":
        send(id=id, error={"code": -32022, "message": "unsupported protocol version", "data": {"supported": ["2026-07-28"]}})
    elif MODERN and method == "server/discover":
        send(id=id, result={**COMPLETE, "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}})
    elif not MODERN and method == "initialize":
        send(id=id, result={"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                            "serverInfo": {"name": "small", "version": "1"}})
    elif not MODERN and method == "ping":
        send(id=id, result={})
    elif method == "tools/list":
        send(id=id, result={**COMPLETE, "tools": [{"name": "echo", "description": "Says it again.", "inputSchema": {"type": "object"}}]})
    elif method == "tools/call":
        threading.Thread(target=call, args=(id, params["name"], params.get("arguments") or {}), daemon=True).start()
    elif "--shy" in sys.argv:
        sys.exit(0)
    elif "--mute" in sys.argv:
        continue
    else:
        send(id=id, error={"code": -32601, "message": "method not found"})

if "--linger" in sys.argv:
    time.sleep(600)
