"""The table of everything that can be told to a person as an error: one code, one sentence, one remedy.

`mesh errors CODE`, docs/errors.md, problem+json answers and log lines come from this table and from nowhere else.
Letters: C configuration, A admin and command line, E events port, L links, M membership, F federation, R registry.
Form for people: `MESH-C012 listen.events: port 7222 is already used. Set [listen] events, or ...`.
Never decides whether something is an error: the place that refuses does, and names its row.
Invariant: a code keeps its meaning; a row may be reworded, never reused. docs/errors.md is `errors_page()` word for word.
Source: design page "What a person sees", section Errors; RFC 9457.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from mesh.model.reasons import Close


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One row. status: HTTP status where it answers a request (0: never). exit: exit code of the command (1 to 10)."""

    code: str
    title: str
    remedy: str
    status: int = 0
    exit: int = 1


class MeshError(Exception):
    """An error for a person: a code of ERRORS, where it happened, what was wrong, and optionally a better remedy."""

    def __init__(self, code: str, where: str, what: str, remedy: str = "") -> None:
        row = ERRORS[code]
        self.code = code
        self.where = where
        self.what = what
        self.remedy = remedy or row.remedy
        super().__init__(
            f"{code} {where}: {what}. {self.remedy}" if where else f"{code} {what}. {self.remedy}"
        )


# One row is two lines: what is wrong, then what to do (and the HTTP status and exit code where they are not 0 and 1).
# fmt: off
# -- configuration ---------------------------------------------------------------------------------------
_CONFIG: Final[tuple[ErrorCode, ...]] = (
    ErrorCode("MESH-C001", "a key that does not exist",
              "Correct the spelling, or remove it; docs/operating.md lists every key."),
    ErrorCode("MESH-C002", "a value of the wrong type",
              "Write the value in the form the error names; docs/operating.md has each key's form."),
    ErrorCode("MESH-C003", "a duration that cannot be read",
              'Write a number and a unit, ms, s, m, h or d: "200ms", "5s", "2m".'),
    ErrorCode("MESH-C004", "a size that cannot be read",
              'Write a whole number of bytes, or one with a unit: "64KiB", "8MiB", "1MB".'),
    ErrorCode("MESH-C005", "an address that cannot be read",
              'Write "HOST:PORT", an IPv6 host in brackets ("[::1]:7222"); "none" turns a port off.'),
    ErrorCode("MESH-C006", "a value outside what is allowed",
              "Use a value the error names."),
    ErrorCode("MESH-C007", "a name that the grammar does not allow",
              "Use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit."),
    ErrorCode("MESH-C008", "the configuration file cannot be read",
              "Check the path and its permissions, or start without --config: a node needs no file."),
    ErrorCode("MESH-C009", "the configuration file is not TOML",
              "Correct the line the error names (see toml.io)."),
    ErrorCode("MESH-C010", "a key of a part that is not built yet",
              "Remove it: this release would not do what it promises, so it does not start."),
    ErrorCode("MESH-C011", "a key that is needed is missing",
              "Add the key the error names."),
    ErrorCode("MESH-C012", "a port is already in use",
              "Set another port in [listen] (0 picks a free one), or stop the process that holds it."),
    ErrorCode("MESH-C013", "an address cannot be listened on",
              "Use an address of this machine, and a port above 1023 unless the process may take smaller ones."),
    ErrorCode("MESH-C014", "the data folder cannot be written",
              "Set [node] data to a folder this user may write, or correct the folder's owner."),
    ErrorCode("MESH-C015", "the data folder is in use by another node",
              "Give each node its own [node] data, or stop the other process."),
    ErrorCode("MESH-C016", "links would cross a network in clear text",
              "Set [tls] ca, cert and key ('mesh ca' makes them), keep links on loopback, or start with --insecure-links "
              "(MESH_INSECURE_LINKS=1) on a network you trust."),
    ErrorCode("MESH-C017", "the events port would be open to a network, in clear text or without a sign of who is there",
              'Set [tls.clients], and either [auth] or certificates = "required"; or keep it on loopback, or start with '
              "--insecure-clients (MESH_INSECURE_CLIENTS=1) on a network you trust."),
    ErrorCode("MESH-C018", "the admin port would be open to a network without a token",
              "Keep [listen] admin on loopback, or set it to none; with [auth], and [tls.clients] or --insecure-clients, it may "
              "listen elsewhere, and asks for tokens."),
    ErrorCode("MESH-C019", "a bridge that contradicts the rest",
              "Correct the [[bridge]] the error names."),
    ErrorCode("MESH-C020", "the registry cannot be used as configured",
              "Correct [registry] as the error says."),
    ErrorCode("MESH-C021", "mesh, federation and registry come from different installations",
              "Install hopmesh in an environment of its own (a fresh venv or container): other "
              "distributions own two of these names."),
    ErrorCode("MESH-C022", "the data folder belongs to another node",
              "Use the id and region it was made for, or an empty data folder: a node's epoch and id live there."),
    ErrorCode("MESH-C023", "the epoch files of the data folder are damaged",
              "Restore one from a backup. Else make sure that the machine's clock is right and remove both: the next epoch "
              "is then taken from the clock."),
    ErrorCode("MESH-C024", "the clock is more than a day behind the node's last epoch",
              "Set the clock right. If it once ran ahead, remove the epoch files and start the whole region anew, or give "
              "the node a new id."),
    ErrorCode("MESH-C025", "the file with the node's default id is damaged",
              "Set [node] id, or remove the file: a new id is made."),
    ErrorCode("MESH-C026", "a file that the configuration names cannot be used",
              "Correct its path, its permissions or its content; the error says which."),
    ErrorCode("MESH-C027", "a key that a reload cannot change",
              "Restart the node: until then it runs on with the value it had."),
    ErrorCode("MESH-C040", "the certificate is not this node's",
              "Use the certificate that was issued for [node] region and id ('mesh ca issue REGION/NODE'), or correct these keys."),
    ErrorCode("MESH-C041", "the certificate is out of date",
              "Renew it ('mesh ca renew'), and compare the machine's clock."),
    ErrorCode("MESH-C042", "a certificate expires soon",
              "Renew it ('mesh ca renew REGION/NODE'): the node takes the new files by itself, links stay."),
    ErrorCode("MESH-C043", "TLS keys that contradict each other",
              "Set [tls] ca, cert and key together; [tls.clients] takes cert and key from [tls] where it has none."),
    ErrorCode("MESH-C050", "the tokens file cannot be used",
              "Correct the line the error names; 'mesh token new NAME' prints one. A running node keeps the tokens it has."),
    ErrorCode("MESH-C051", "the access file cannot be used",
              "Correct the line the error names (docs/access.md has the form of each). A running node keeps the rules it has."),
    ErrorCode("MESH-C052", "the keys for JWTs cannot be used",
              "Check [auth] jwks, and what is there: a JWKS with public keys. A running node keeps the keys it has, for a day."),
    ErrorCode("MESH-C053", "the audit file cannot be written",
              "Make room on the disk, or correct the path and its permissions ([audit] file): records wait, and are lost and counted "
              "when too many do."),
    ErrorCode("MESH-C054", "keys of [auth] that contradict each other",
              "Set acl and at least one of tokens_file, jwks and certificates; jwks needs issuer and audience."),
)
# -- admin port and command line -------------------------------------------------------------------------
_ADMIN: Final[tuple[ErrorCode, ...]] = (
    ErrorCode("MESH-A001", "a command line that cannot be understood",
              "See the command's --help.", status=400, exit=2),
    ErrorCode("MESH-A002", "the node cannot be reached",
              "Start one with 'mesh run', or name another with --node URL, --context NAME or MESH_ADMIN.", exit=3),
    ErrorCode("MESH-A003", "not every node of the region answered",
              "What is shown is right for the nodes that answered; 'mesh node list' shows the state of the "
              "others.", exit=4),
    ErrorCode("MESH-A004", "the token is missing, or cannot be accepted",
              "Give one with --token-file FILE or MESH_TOKEN_FILE, and one that is still good.", status=401),
    ErrorCode("MESH-A005", "there is no such thing",
              "List what there is first.", status=404),
    ErrorCode("MESH-A006", "this call is not made with that method",
              "Use the method the Allow header names.", status=405),
    ErrorCode("MESH-A007", "a parameter that cannot be understood",
              "Correct the parameter.", status=400),
    ErrorCode("MESH-A008", "the node is not ready",
              "Wait, or read the reason in the answer: a node is ready when it listens and has joined its "
              "region.", status=503),
    ErrorCode("MESH-A009", "the node is leaving",
              "Ask another node of the region.", status=409),
    ErrorCode("MESH-A010", "the answer is not a Hopmesh node's",
              "Check that the address is the node's admin port (events port for publish, subscribe, request "
              "and reply).", exit=3),
    ErrorCode("MESH-A011", "a part that is not built yet",
              "Do without it in this release.", status=501, exit=2),
    ErrorCode("MESH-A012", "no answer in time",
              "Give more time with --timeout, or ask a node that is nearer or less busy.", status=504, exit=3),
    ErrorCode("MESH-A013", "no such context",
              "See 'mesh context list', add one with 'mesh context add NAME --node URL'.", exit=2),
    ErrorCode("MESH-A014", "something unexpected happened in Hopmesh itself",
              "Run it again with --debug and report what it prints.", status=500),
    ErrorCode("MESH-A015", "no such error code",
              "'mesh errors' lists all.", exit=2),
    ErrorCode("MESH-A016", "the stream from the node ended",
              "Run it again; events in between were not kept for this subscription.", exit=3),
    ErrorCode("MESH-A017", "a file or folder of the command cannot be used",
              "Check its path and permissions."),
    ErrorCode("MESH-A018", "nobody answered the request",
              "Start an answering client ('mesh reply FILTER --echo'), and see 'mesh subs list' for who listens."),
    ErrorCode("MESH-A019", "too many calls are open",
              "Close a watch that is not needed, or ask another node of the region.", status=503),
    ErrorCode("MESH-A020", "a node of the demo or the bench did not start",
              "Read the lines of its log behind the error; run it by hand with 'mesh run' to see more."),
    ErrorCode("MESH-A021", "a web page of another site may not call this node",
              "Call it by its address or as localhost, and from a page of this machine or none; browsers send every page's "
              "requests to this machine's ports too.", status=403),
    ErrorCode("MESH-A040", "you may not do this at the admin port",
              "Ask whoever keeps the access file for a 'scope' line with the scope the error names.", status=403),
    ErrorCode("MESH-A022", "the dead letter cannot be published again now",
              "The detail says why; subscribe to its topic first if nobody wants it, or drop it.", status=409),
    ErrorCode("MESH-A030", "the folder of the CA cannot be used",
              "Make one with 'mesh ca init', or name another with --folder FOLDER."),
    ErrorCode("MESH-A031", "this CA has not issued such a certificate",
              "See 'mesh ca list' for those it has issued; 'mesh ca issue' makes a new one."),
    ErrorCode("MESH-A032", "this CA has issued a certificate of that name already",
              "Use 'mesh ca renew', or 'mesh ca issue --again' for other names or another folder."),
)
# -- events port -----------------------------------------------------------------------------------------
_EVENTS: Final[tuple[ErrorCode, ...]] = (
    ErrorCode("MESH-E001", "a topic that cannot be published on",
              "Name one topic: levels split by '/', no '+' or '#', not below $mesh.", status=400),
    ErrorCode("MESH-E002", "a filter or group that the grammar does not allow",
              "Write levels split by '/', '+' for one level, '#' as the last; $share/GROUP/FILTER for a group.",
              status=400),
    ErrorCode("MESH-E003", "an attribute that CloudEvents does not allow",
              "Correct the attribute: names of lower-case letters and digits, values of the type it has in "
              "CloudEvents 1.0.", status=400),
    ErrorCode("MESH-E004", "a required attribute is missing",
              "Give id, source, type and specversion together, or none of them: then the body is wrapped.",
              status=400),
    ErrorCode("MESH-E005", "this is no CloudEvent",
              "Send one JSON object with specversion, id, source and type, in UTF-8.", status=400),
    ErrorCode("MESH-E006", "a batch that cannot be read",
              "Send a JSON array of CloudEvents; nothing of this batch was published.", status=400),
    ErrorCode("MESH-E007", "too large",
              "Send less at once: [limits] event_bytes, key_bytes, body_bytes and batch_request_events are the bounds.",
              status=413),
    ErrorCode("MESH-E008", "a media type this port does not read",
              "Use application/cloudevents+json, application/cloudevents-batch+json, or ce- headers with any "
              "body; UTF-8, without Content-Encoding.", status=415),
    ErrorCode("MESH-E009", "a part that is not built yet",
              "Leave the parameter out: this release would not keep what it promises.", status=501),
    ErrorCode("MESH-E010", "a parameter or field that does not exist",
              "Correct the spelling, or remove it; docs/clients.md lists them all.", status=400),
    ErrorCode("MESH-E011", "a value that cannot be used",
              "Use a value the detail names.", status=400),
    ErrorCode("MESH-E012", "nobody is interested",
              "Subscribe first (wait=mesh tells when it is installed), or publish without require=interest.",
              status=404),
    ErrorCode("MESH-E013", "nobody answers requests on this topic",
              "Start a client that subscribes there and replies; the reasons name the regions asked.", status=404),
    ErrorCode("MESH-E014", "those who answer cannot be reached now",
              "Try again: the reasons say which region or group is out of reach, and why.", status=503),
    ErrorCode("MESH-E015", "no reply in time",
              "Give more time with timeout=, or look at the answering client.", status=504),
    ErrorCode("MESH-E016", "the node is leaving",
              "Connect to another node of the region.", status=503),
    ErrorCode("MESH-E017", "too many client connections",
              "Close some, use one WebSocket for many subscriptions, or raise [limits] client_connections.",
              status=503),
    ErrorCode("MESH-E018", "too many subscriptions on one connection, or of all clients of the node",
              "Use wider filters or another connection; [limits] session_subscriptions and node_subscriptions are the bounds.",
              status=429),
    ErrorCode("MESH-E019", "this sid is in use",
              "Give each subscription of a connection its own number, or unsubscribe the first.", status=409),
    ErrorCode("MESH-E020", "there is no such subscription",
              "Use the sid of a subscribe on the same connection.", status=404),
    ErrorCode("MESH-E021", "an op that does not exist",
              "Use subscribe, unsubscribe, publish, request, reply, credit, ack, nack or ping.", status=400),
    ErrorCode("MESH-E022", "an op that cannot be read",
              "Send one JSON object in a text frame; the detail names the field.", status=400),
    ErrorCode("MESH-E023", "there is nothing at this path",
              "Use /v1/events/TOPIC, /v1/events, /v1/request/TOPIC, /v1/reply or /v1/ws; lists are on the admin port.",
              status=404),
    ErrorCode("MESH-E024", "this path does not know that method",
              "Use a method of the Allow header.", status=405),
    ErrorCode("MESH-E025", "the answer here is a stream",
              "Send 'Accept: text/event-stream' (curl -N -H 'Accept: text/event-stream'), or upgrade to WebSocket.",
              status=406),
    ErrorCode("MESH-E026", "not a WebSocket opening that can be accepted",
              "Send Upgrade: websocket, Connection: Upgrade, Sec-WebSocket-Version: 13 and a Sec-WebSocket-Key.",
              status=400),
    ErrorCode("MESH-E027", "this path speaks another WebSocket subprotocol",
              "Ask for mesh.v1.json on /v1/ws, for cloudevents.json on /v1/events.", status=400),
    ErrorCode("MESH-E028", "not a place a reply can be sent to",
              "Send reply_to and correlation back exactly as the request brought them.", status=400),
    ErrorCode("MESH-E029", "the requester cannot be reached",
              "Drop the reply: the requester's node or region is out of reach, or it is gone.", status=503),
    ErrorCode("MESH-E030", "too many requests wait for a reply",
              "Wait for some to end; [limits] pending_requests is the bound.", status=503),
    ErrorCode("MESH-E031", "an HTTP request that cannot be read",
              "Correct the request; the detail names the line or header.", status=400),
    ErrorCode("MESH-E032", "this node does not keep these events",
              'Write [[topic]] filter = "F", retain = "24h" into this node\'s configuration, with a filter F that covers yours, '
              "or connect to a node that has it; each node replays its own log.", status=404),
    ErrorCode("MESH-E033", "the event to continue after is not in this node's log",
              "Continue after the oldest event that is kept (the detail names it), or from a time; longer retain in [[topic]] "
              "keeps more.", status=410),
    ErrorCode("MESH-E034", "a queue group cannot be replayed",
              "Leave out either the group or from: a group's members share what comes, nobody of them gets all of it.", status=400),
    ErrorCode("MESH-E035", "the event log cannot be read now",
              "Look at the node's log and its disk; it goes on without, and tries again by itself.", status=503),
    ErrorCode("MESH-E036", "too many replays are under way",
              "Wait for one to become live; [limits] replays is the bound.", status=503),
    ErrorCode("MESH-E040", "there is no such durable client",
              "Look at 'mesh subs list' or GET /v1/clients; connecting with durable=true makes it.", status=404),
    ErrorCode("MESH-E041", "the durable client's home is down",
              "What is kept for the client is on that node: start it again, or remove the client there when it is back and "
              "choose another name meanwhile.", status=503),
    ErrorCode("MESH-E042", "another connection of this durable client took over",
              "Let one process at a time use a client's name; to share work, subscribe with a group.", status=409),
    ErrorCode("MESH-E043", "too many durable clients",
              "Remove those that nobody uses (DELETE /v1/clients/NAME); [limits] durable_clients is the bound.", status=503),
    ErrorCode("MESH-E044", "the durable client's subscription cannot be kept now, so it is not made",
              "Nothing has changed: unsubscribe or remove what nobody uses, or raise [limits] journal_notes_bytes; where the detail names "
              "the disk, repair that, and ask again.", status=503),
    ErrorCode("MESH-E050", "the event cannot be kept now, so it is not accepted",
              "Publish it again after a moment, here or at another node; the detail says what the journal lacks.", status=503),
    ErrorCode("MESH-E051", "the acknowledgement that was asked for did not come in time",
              "Nothing to repeat: the event is accepted, and is delivered or ends as a dead letter; the detail says who is missing.",
              status=504),
    ErrorCode("MESH-E052", "the disk failed while the event was being stored: it may be delivered, or be lost",
              "Publish it again, here or at another node; a subscriber may see it twice then, with the same id and source.",
              status=503),
    ErrorCode("MESH-E060", "a port that speaks TLS was asked in clear text",
              "Use https:// (wss://), with the CA that [tls.clients] cert comes from: curl --cacert ca.pem.", status=400),
    ErrorCode("MESH-E061", "a proof of who you are is needed",
              "Send 'Authorization: Bearer TOKEN' (in a browser's WebSocket: the subprotocol mesh.bearer.TOKEN), or connect with "
              "a client certificate where the node takes them; docs/access.md tells how to get one.", status=401),
    ErrorCode("MESH-E062", "the proof of who you are cannot be accepted",
              "Get a new token: the detail says what is wrong with this one; tokens end, and are taken back.", status=401),
    ErrorCode("MESH-E063", "the access rules do not allow it",
              "Ask whoever keeps the access file for a rule; the answer names the rule that denied it, with file and line.",
              status=403),
    ErrorCode("MESH-E064", "faster than you may publish",
              "Wait as long as Retry-After says; a 'limit' line of the access file is the bound.", status=429),
    ErrorCode("MESH-E065", "as many connections or subscriptions as you may have",
              "Close some, or use one WebSocket for many subscriptions; a 'limit' line of the access file is the bound.",
              status=429),
    ErrorCode("MESH-E066", "the keys that check this token cannot be read now",
              "Try again: the node asks the issuer again by itself; its log says why it does not answer.", status=503),
    ErrorCode("MESH-E067", "the name of a durable client that is not yours",
              "Use your own name, or one that begins with it and a dot: NAME.worker-1.", status=403),
    ErrorCode("MESH-E068", "access ended: what was shown is no longer good, or what was done is no longer allowed",
              "Connect again with a new token, and ask only for what the access rules allow; the reason names the rule.",
              status=403),
)
# -- links -----------------------------------------------------------------------------------------------
_LINKS: Final[tuple[ErrorCode, ...]] = (
    ErrorCode("MESH-L001", "the two ends speak different protocol versions",
              "Run the same release at both ends."),
    ErrorCode("MESH-L002", "another region answered than the bridge expects",
              "Correct [[bridge]] to or seeds here, or [node] region there."),
    ErrorCode("MESH-L003", "a region that is not listed wants to link",
              'List it as [[bridge]] to here (without seeds it only accepts), or set [federation] accept = "any".'),
    ErrorCode("MESH-L004", "a bridge leads into its own region",
              "Use [registry] seeds for nodes of the own region, [[bridge]] for others."),
    ErrorCode("MESH-L005", "another live node has the same region and id",
              "Give one of the two another [node] id; a copied data folder carries the id with it."),
    ErrorCode("MESH-L006", "the clocks of the two ends are too far apart",
              "Set the clocks right (NTP) at both ends; [limits] clock_skew_s is the bound."),
    ErrorCode("MESH-L007", "the other end's epoch lies more than a day ahead",
              "Set its clock right; if it once ran ahead, remove the epoch file in its data folder and restart it."),
    ErrorCode("MESH-L008", "a newer process of this node is already known",
              "Stop the older one; if the clock was set back with an empty data folder, set it right and restart."),
    ErrorCode("MESH-L009", "a seed leads back to this node",
              "Harmless where one seed list serves every node; otherwise correct the address."),
    ErrorCode("MESH-L010", "the other end did not finish opening the link",
              "Check that the address is a link port, and that nothing between the two holds bytes back."),
    ErrorCode("MESH-L011", "the bridge fell silent",
              "Look for packet loss, a paused process or a full line between the two ends."),
    ErrorCode("MESH-L012", "the connection was lost",
              "The node dials again by itself; if it repeats, look at the network and the other end's log."),
    ErrorCode("MESH-L013", "the other end sent what is no frame",
              "Check that it is a Hopmesh node of the same release and that nothing rewrites the stream."),
    ErrorCode("MESH-L014", "the other end broke the link's rules",
              "Run the same release at both ends; if it repeats, report both logs."),
    ErrorCode("MESH-L015", "a frame larger than allowed",
              "Set [limits] frame_bytes and event_bytes alike at both ends."),
    ErrorCode("MESH-L016", "the other end passed a limit",
              "The detail names the limit; raise it in [limits] here, or correct the other end."),
    ErrorCode("MESH-L017", "the other end does not read",
              "Look at its load and its line; it is dialled again."),
    ErrorCode("MESH-L018", "the other end sent too slowly",
              "Look at its line; a client must send a request within [limits] request_timeout_s."),
    ErrorCode("MESH-L019", "too many connections",
              "Raise the limit the detail names, or find out who opens so many."),
    ErrorCode("MESH-L020", "the other end stopped or is leaving",
              "Nothing is wrong if that was meant; traffic takes another route where there is one."),
    ErrorCode("MESH-L021", "the two nodes already have a link",
              "Nothing to do: each pair keeps one, the other is closed."),
    ErrorCode("MESH-L022", "a seed cannot be dialled",
              "Check the address, that the node runs, and that no firewall is between; it is tried again."),
    ErrorCode("MESH-L023", "a seed's host name cannot be resolved",
              "Correct the name or the resolver; it is tried again."),
    ErrorCode("MESH-L030", "no TLS with the other end",
              "The detail says which end refused which certificate, and why: both need [tls] with certificates of one CA and trust "
              "domain that are in date."),
    ErrorCode("MESH-L031", "the other end's certificate is for another node than it says to be",
              "Give that node the certificate issued for its region and id; if nobody changed them, somebody uses a certificate that is "
              "not theirs."),
    ErrorCode("MESH-L032", "a link in clear text to a node that takes only TLS",
              "Set [tls] at the dialling node, too."),
)
# -- membership ------------------------------------------------------------------------------------------
_MEMBERS: Final[tuple[ErrorCode, ...]] = (
    ErrorCode("MESH-M001", "a member was declared dead",
              "If it still runs, look at its load and at the network to it; it rejoins by itself."),
    ErrorCode("MESH-M002", "a member is suspect",
              "Look at its load and at its link port; it is declared dead if it does not refute in time."),
    ErrorCode("MESH-M003", "the region believed this node dead",
              "It rejoined; if it repeats, this process is paused or starved: look at its CPU and its line."),
    ErrorCode("MESH-M004", "this node is too slow to judge others",
              "Give the process more CPU: its probes are answered late, so it stops accusing members."),
    ErrorCode("MESH-M005", "no seed of the own region answers",
              "Right for the first node of a region; otherwise check [registry] seeds."),
)
# -- between regions -------------------------------------------------------------------------------------
_FEDERATION: Final[tuple[ErrorCode, ...]] = (
    ErrorCode("MESH-F001", "no route to a region",
              "See 'mesh routes list': a bridge of it must be up, and every region between must let it through."),
    ErrorCode("MESH-F002", "only infeasible routes to a region",
              "Wait: a newer seqno is being asked for. If it stays, look at the bridges on the path."),
    ErrorCode("MESH-F003", "a region with interest is unreachable",
              "Its interest is kept for 24 h; events for it are dropped with no_route until it returns."),
    ErrorCode("MESH-F004", "a bridge is down",
              "Look at its seeds and at the other region; traffic takes another route where there is one."),
    ErrorCode("MESH-F005", "a region's summary was merged above the budget",
              "Some events travel to it in vain; raise [federation] export_merge_budget there, or use wider "
              "filters."),
    ErrorCode("MESH-F006", "a region was refused: the limit of regions is reached",
              "Raise [limits] regions on every node."),
    ErrorCode("MESH-F007", "a region's interest was refused: the limit of remote filters is reached",
              "Raise [limits] remote_filters, or lower the exporting region's export_merge_budget."),
    ErrorCode("MESH-F020", "the policy file cannot be read",
              "Check the path in [policy] file and its permissions; a running node keeps the rules it has.", status=400),
    ErrorCode("MESH-F021", "a line of the policy file is no rule",
              "Correct the line (docs/policy.md has the form of each); a running node keeps the rules it has.", status=400),
    ErrorCode("MESH-F022", "a key of the policy file cannot be used",
              "Name a readable file with 32 bytes or 64 hexadecimal digits; a running node keeps the keys it has.",
              status=400),
    ErrorCode("MESH-F023", "the node has no policy file",
              "Set [policy] file and start it again: then the file may change while the node runs.", status=409),
    ErrorCode("MESH-F024", "no link of this node leads to that region",
              "Ask the node that has the bridge (mesh links list --kind bridge), or name the neighbouring region.",
              status=404),
)
# -- the registry ----------------------------------------------------------------------------------------
_REGISTRY: Final[tuple[ErrorCode, ...]] = (
    ErrorCode("MESH-R001", "the registry does not answer",
              "The mesh runs on without it, only new peers wait. Look at the registry and at the line to it.", status=503),
    ErrorCode("MESH-R002", "the lease in the registry ran out, or the entry was taken over",
              "The node registers again by itself; if it repeats, look for a second process of the same name or a paused one."),
    ErrorCode("MESH-R003", "somebody else changed the registry's entry first",
              "Read it again and repeat the change.", status=409),
    ErrorCode("MESH-R004", "a newer process of this node is registered",
              "Stop the older process, or give it another [node] id.", status=409),
    ErrorCode("MESH-R005", "an entry that the registry's form does not allow",
              "Correct what the error names.", status=400),
    ErrorCode("MESH-R006", "the registry's folder cannot be used",
              "Set [registry] path to a folder that every node's user may write."),
    ErrorCode("MESH-R007", "the registry is full",
              "Remove what is no longer needed, or use a registry of its own for this mesh.", status=503),
    ErrorCode("MESH-R008", "another trust root claims the name of this region in the directory",
              "Find out who runs a region of this name; rename one, or remove the directory's entry if it is left over.", status=409),
    ErrorCode("MESH-R009", "the registry refuses the user or the password",
              "Correct [registry] user and password_file; without a user, the registry must not ask for one."),
    ErrorCode("MESH-R010", "the registry's user may not do that",
              "Let the user read and write everything under [registry] prefix (etcd) or in its namespace (Nacos)."),
    ErrorCode("MESH-R011", "no TLS with the registry",
              "Check that [registry] ca signed the registry's certificate, cert and key are taken by it, all are in date, and "
              "that both ends use TLS."),
    ErrorCode("MESH-R012", "a TLS file for the registry cannot be used",
              "Set [registry] ca, cert and key to PEM files that the node's user may read."),
)
# fmt: on

ERRORS: Final[dict[str, ErrorCode]] = {
    row.code: row
    for rows in (_CONFIG, _ADMIN, _EVENTS, _LINKS, _MEMBERS, _FEDERATION, _REGISTRY)
    for row in rows
}

_CLOSES: Final[dict[Close, str]] = {
    Close.NORMAL: "",
    Close.DRAINING: "MESH-L020",
    Close.PEER_CLOSED: "MESH-L020",
    Close.LINK_LOST: "MESH-L012",
    Close.HELLO_TIMEOUT: "MESH-L011",
    Close.OPEN_TIMEOUT: "MESH-L010",
    Close.DUPLICATE_LINK: "MESH-L021",
    Close.SELF_LINK: "MESH-L009",
    Close.TLS_FAILED: "MESH-L030",
    Close.TLS_REQUIRED: "MESH-L032",
    Close.NAME_NOT_CERTIFIED: "MESH-L031",
    Close.VERSION_MISMATCH: "MESH-L001",
    Close.REGION_MISMATCH: "MESH-L002",
    Close.REGION_NOT_LISTED: "MESH-L003",
    Close.SAME_REGION_BRIDGE: "MESH-L004",
    Close.NAME_IN_USE: "MESH-L005",
    Close.OLD_EPOCH: "MESH-L008",
    Close.EPOCH_AHEAD: "MESH-L007",
    Close.CLOCK_SKEW: "MESH-L006",
    Close.MALFORMED: "MESH-L013",
    Close.UNEXPECTED_FRAME: "MESH-L014",
    Close.FRAME_TOO_LARGE: "MESH-L015",
    Close.LIMIT: "MESH-L016",
    Close.SLOW_CONSUMER: "MESH-L017",
    Close.SLOW_SENDER: "MESH-L018",
    Close.TOO_MANY_CONNECTIONS: "MESH-L019",
    Close.MEMBER_DEAD: "MESH-M001",
    Close.TAKEN_OVER: "MESH-E042",
    Close.CLIENT_REMOVED: "MESH-E040",
    Close.ACCESS_ENDED: "MESH-E068",
    Close.PROTOCOL_ERROR: "MESH-L014",
}


def close_code(reason: Close) -> str:
    """The row that explains why a link was closed or refused; "" for a normal end. Every member has an answer (tested)."""
    return _CLOSES[reason]


def problem(code: str, detail: str, *, status: int = 0, where: str = "") -> dict[str, object]:
    """The RFC 9457 object (application/problem+json) of one error.

    Args: detail: what was wrong this time. status: HTTP status if not the row's. where: parameter, header or key.
    Returns: type, title, status, detail, code, remedy, and `where` if given. Cost: O(1). Raises: KeyError on an unknown code.
    """
    row = ERRORS[code]
    found: dict[str, object] = {
        "type": f"urn:hopmesh:error:{code}",
        "title": row.title,
        "status": status or row.status or 400,
        "detail": detail,
        "code": code,
        "remedy": row.remedy,
    }
    if where:
        found["where"] = where
    return found
