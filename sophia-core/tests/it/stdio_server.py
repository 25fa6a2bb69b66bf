"""A small MCP server over stdio, of the era of `initialize`, with the faults that tests need."""
import json, os, subprocess, sys, threading, time

lock = threading.Lock()


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
    send(id=id, result={"content": [{"type": "text", "text": text}], "isError": failed})


for line in sys.stdin:
    message = json.loads(line)
    id, method, params = message.get("id"), message.get("method"), message.get("params") or {}
    if id is None:
        continue
    if method == "initialize":
        send(id=id, result={"protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                            "serverInfo": {"name": "small", "version": "1"}})
    elif method == "ping":
        send(id=id, result={})
    elif method == "tools/list":
        send(id=id, result={"tools": [{"name": "echo", "description": "Says it again.", "inputSchema": {"type": "object"}}]})
    elif method == "tools/call":
        threading.Thread(target=call, args=(id, params["name"], params.get("arguments") or {}), daemon=True).start()
    else:
        send(id=id, error={"code": -32601, "message": "method not found"})

if "--linger" in sys.argv:
    time.sleep(600)
