"""The embedded chain served as a Solana node: JSON-RPC over HTTP and WebSocket, with a node's faults on request.

Belongs here: a chain that runs, and a node's answers about it. Does not belong here: what is on the chain
(`blyan.solana.embedded`), or any client of it.

    ledger.py         a running chain: blocks, forks, commitment, what is indexed of them
    encoding.py       a block or an account in each form a node gives
    errors.py         the errors that nodes answer with
    rpc.py            the methods
    subscriptions.py  what subscribers are told
    faults.py         what is wrong with the node, on request
    server.py         sockets, the clock, and the threads
"""
