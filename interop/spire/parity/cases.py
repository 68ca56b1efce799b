"""The commands, in an order that builds a state up and takes it down again."""

from world import Case

CASES = []

NODE = "spiffe://parity.test/node"


def case(name, words, program="server", **more):
    CASES.append(Case(name, program, words if isinstance(words, list) else words.split(), **more))


def both(name, words, program="server", **more):
    """In both forms; for commands that change nothing, or fail."""
    words = words if isinstance(words, list) else words.split()
    case(f"{name}.pretty", words, program, **more)
    case(f"{name}.json", [*words, "-output", "json"], program, **more)


def agent(name, words, **more):
    case(name, words, "agent", **more)


def agent_both(name, words, **more):
    both(name, words, "agent", **more)


# Before anything exists.

both("entry.show.none", "entry show")
both("entry.count.none", "entry count")
both("bundle.count.one", "bundle count")
both("bundle.list.none", "bundle list")
both("federation.list.none", "federation list")
agent_both("api.fetch.x509.denied", "api fetch x509")
agent_both("api.fetch.jwt.denied", "api fetch jwt -audience db")

# Health.

case("healthcheck.server", "healthcheck")
case("healthcheck.server.verbose", "healthcheck -verbose -shallow")
case("healthcheck.server.no-socket", "healthcheck -verbose", socket="{dir}/none.sock")
agent("healthcheck.agent", "healthcheck")
agent("healthcheck.agent.verbose", "healthcheck -verbose -shallow")
agent("healthcheck.agent.no-socket", "healthcheck -verbose", socket="{dir}/none.sock")

# Entries.

W = "entry create -parentID " + NODE + " -spiffeID spiffe://parity.test/"
case("entry.create.pretty", W + "web -selector unix:uid:0", capture={"web": r"Entry ID +: (\S+)"})
case("entry.create.json", W + "db -selector unix:uid:1 -selector unix:gid:1 -x509SVIDTTL 600 -output json",
     capture={"db": "results.0.entry.id"})
case("entry.create.full", W + "full -selector unix:uid:2 -x509SVIDTTL 600 -jwtSVIDTTL 60 -dns a.test -dns b.test "
     "-hint internal -admin -downstream -storeSVID -entryExpiry 4102444800 -disableX509SVIDPrefetch -jwtSVIDIncludeJTI "
     "-entryID full-entry")
case("entry.create.node", "entry create -node -spiffeID spiffe://parity.test/cluster -selector unix:uid:3")
both("entry.create.same", W + "web -selector unix:uid:0")
both("entry.create.same-id", W + "other -selector unix:uid:9 -entryID full-entry")
both("entry.create.no-selector", W + "x")
both("entry.create.no-parent", "entry create -spiffeID spiffe://parity.test/x -selector unix:uid:0")
both("entry.create.no-id", "entry create -parentID " + NODE + " -selector unix:uid:0")
both("entry.create.bad-id", "entry create -parentID " + NODE + " -spiffeID web -selector unix:uid:0")
both("entry.create.bad-parent", "entry create -parentID /x -spiffeID spiffe://parity.test/x -selector unix:uid:0")
both("entry.create.foreign-id", "entry create -parentID " + NODE + " -spiffeID spiffe://other.test/x -selector unix:uid:0")
both("entry.create.bad-selector", W + "x -selector unix")
both("entry.create.bad-dns", W + "x -selector unix:uid:0 -dns a..b")
both("entry.create.bad-ttl", W + "x -selector unix:uid:0 -x509SVIDTTL -1")
both("entry.create.bad-jwt-ttl", W + "x -selector unix:uid:0 -jwtSVIDTTL -1")
both("entry.create.unknown-federation", W + "x -selector unix:uid:0 -federatesWith nobody.test")
both("entry.create.bad-federation", W + "x -selector unix:uid:0 -federatesWith NOBODY")
both("entry.create.node-federation", "entry create -node -spiffeID spiffe://parity.test/c -selector unix:uid:3 "
     "-federatesWith other.test")
both("entry.create.bad-entry-id", [*(W + "x -selector unix:uid:0").split(), "-entryID", "a b"])
both("entry.create.no-file", "entry create -data {dir}/none.json")
both("entry.create.not-json", "entry create -data {not_json}")
case("entry.create.file", "entry create -data {entries}", capture={"file1": r"Entry ID +: (\S+)"})
case("entry.create.stdin", "entry create -data -", stdin='{"entries": [{"spiffe_id": "spiffe://parity.test/in", '
     '"parent_id": "spiffe://parity.test/node", "selectors": [{"type": "a", "value": "b"}]}]}')
case("entry.create.stdin.again.json", "entry create -data - -output json", stdin='{"entries": [{"spiffe_id": '
     '"spiffe://parity.test/in", "parent_id": "spiffe://parity.test/node", "selectors": [{"type": "a", "value": "b"}]}]}')

both("entry.show.all", "entry show")
both("entry.show.id", "entry show -entryID {web}")
both("entry.show.unknown", "entry show -entryID none")
both("entry.show.spiffe-id", "entry show -spiffeID spiffe://parity.test/db")
both("entry.show.parent", "entry show -parentID " + NODE)
both("entry.show.selector", "entry show -selector unix:uid:1")
for behaviour in ("exact", "any", "superset", "subset", "wrong"):
    both(f"entry.show.match-{behaviour}", f"entry show -selector unix:uid:1 -matchSelectorsOn {behaviour}")
    both(f"entry.show.match-federation-{behaviour}",
         f"entry show -federatesWith spiffe://other.test -matchFederatesWithOn {behaviour}")
both("entry.show.downstream", "entry show -downstream")
both("entry.show.hint", "entry show -hint internal")
both("entry.show.combined", "entry show -entryID {web} -selector unix:uid:0")
both("entry.show.bad-id", "entry show -spiffeID web")
both("entry.show.bad-parent", "entry show -parentID web")
both("entry.show.bad-selector", "entry show -selector web")
both("entry.count.all", "entry count")
both("entry.count.selector", "entry count -selector unix:uid:1")
both("entry.count.bad-id", "entry count -spiffeID web")

U = " -parentID " + NODE + " -spiffeID spiffe://parity.test/db -selector unix:uid:1"
case("entry.update.pretty", "entry update -entryID {db}" + U + " -hint changed")
case("entry.update.json", "entry update -entryID {db}" + U + " -x509SVIDTTL 60 -output json")
case("entry.update.attributes", "entry update -entryID {db}" + U + " -jwtSVIDIncludeJTI")
case("entry.update.attributes.json", "entry update -entryID {db}" + U + " -disableX509SVIDPrefetch -output json")
both("entry.update.unknown", "entry update -entryID none" + U)
both("entry.update.unknown-attributes", "entry update -entryID none -disableX509SVIDPrefetch" + U)
both("entry.update.no-entry-id", "entry update" + U)
both("entry.update.no-selector", "entry update -entryID {db} -parentID " + NODE + " -spiffeID spiffe://parity.test/db")
both("entry.update.no-parent", "entry update -entryID {db} -spiffeID spiffe://parity.test/db -selector a:b")
both("entry.update.no-id", "entry update -entryID {db} -selector a:b -parentID " + NODE)
both("entry.update.bad-id", "entry update -entryID {db} -selector a:b -spiffeID x -parentID " + NODE)

# SVIDs for this process, which is what the first entry is about.

agent("api.fetch.x509.ready", "api fetch x509", until="Received 1 svid")
agent("api.fetch.x509.json", "api fetch x509 -output json")
agent("api.fetch.default", "api fetch")
agent("api.fetch.silent", "api fetch -silent")
agent("api.fetch.x509.write", "api fetch x509 -silent -write {dir}")
agent("api.fetch.x509.write-nowhere", "api fetch x509 -silent -write {dir}/none")
agent("api.fetch.x509.no-socket", "api fetch x509", socket="{dir}/none.sock")
agent("api.fetch.jwt.pretty", "api fetch jwt -audience db,cache", capture={"jwt": r"(eyJ\S+)"})
agent("api.fetch.jwt.json", "api fetch jwt -audience db -output json")
agent("api.fetch.jwt.format", "api fetch jwt -audience db -format json")
agent_both("api.fetch.jwt.id", "api fetch jwt -audience db -spiffeID spiffe://parity.test/web")
agent_both("api.fetch.jwt.other-id", "api fetch jwt -audience db -spiffeID spiffe://parity.test/db")
agent_both("api.fetch.jwt.bad-id", "api fetch jwt -audience db -spiffeID web")
agent_both("api.fetch.jwt.no-audience", "api fetch jwt")
agent("api.fetch.jwt.no-socket", "api fetch jwt -audience db", socket="{dir}/none.sock")
agent_both("api.validate.jwt", "api validate jwt -audience db -svid {jwt}")
agent_both("api.validate.jwt.other-audience", "api validate jwt -audience other -svid {jwt}")
agent_both("api.validate.jwt.garbage", "api validate jwt -audience db -svid abc")
agent_both("api.validate.jwt.no-audience", "api validate jwt -svid {jwt}")
agent_both("api.validate.jwt.no-svid", "api validate jwt -audience db")
agent("api.watch", "api watch", interrupt_at="CA #1 Valid Until")

# Minting.

both("x509.mint", "x509 mint -spiffeID spiffe://parity.test/minted -dns m.test")
both("x509.mint.ttl", "x509 mint -spiffeID spiffe://parity.test/minted -ttl 10m")
both("x509.mint.capped", "x509 mint -spiffeID spiffe://parity.test/minted -ttl 9999h")
both("x509.mint.no-id", "x509 mint")
both("x509.mint.bad-id", "x509 mint -spiffeID web")
both("x509.mint.foreign", "x509 mint -spiffeID spiffe://other.test/web")
both("x509.mint.bad-dns", "x509 mint -spiffeID spiffe://parity.test/minted -dns a..b")
both("x509.mint.huge-ttl", "x509 mint -spiffeID spiffe://parity.test/minted -ttl 2000000h")
both("x509.mint.write", "x509 mint -spiffeID spiffe://parity.test/minted -write {dir}")
both("x509.mint.write-nowhere", "x509 mint -spiffeID spiffe://parity.test/minted -write {dir}/none")
both("jwt.mint", "jwt mint -spiffeID spiffe://parity.test/minted -audience a -audience b")
both("jwt.mint.ttl", "jwt mint -spiffeID spiffe://parity.test/minted -audience a -ttl 30s")
both("jwt.mint.capped", "jwt mint -spiffeID spiffe://parity.test/minted -audience a -ttl 9999h")
both("jwt.mint.no-id", "jwt mint -audience a")
both("jwt.mint.no-audience", "jwt mint -spiffeID spiffe://parity.test/minted")
both("jwt.mint.bad-id", "jwt mint -spiffeID web -audience a")
both("jwt.mint.foreign", "jwt mint -spiffeID spiffe://other.test/web -audience a")
both("jwt.mint.write", "jwt mint -spiffeID spiffe://parity.test/minted -audience a -write {dir}/token")
both("jwt.mint.write-nowhere", "jwt mint -spiffeID spiffe://parity.test/minted -audience a -write {dir}/none/token")
case("usage.wit-mint.without-feature-flag", "wit mint -spiffeID spiffe://parity.test/minted", socket="none")

# Tokens.

both("token.generate", "token generate")
both("token.generate.id", "token generate -spiffeID spiffe://parity.test/other-node -ttl 60")
both("token.generate.bad-ttl", "token generate -ttl 0")
both("token.generate.bad-id", "token generate -spiffeID web")
both("token.generate.foreign-id", "token generate -spiffeID spiffe://other.test/web")

# Bundles.

both("bundle.show", "bundle show")
both("bundle.show.spiffe", "bundle show -format spiffe")
both("bundle.show.bad-format", "bundle show -format der")
case("bundle.set.pem", "bundle set -id spiffe://other.test -path {foreign_pem}")
case("bundle.set.spiffe.json", "bundle set -id third.test -format spiffe -path {foreign_spiffe} -output json")
case("bundle.set.again", "bundle set -id spiffe://other.test -format SPIFFE -path {foreign_spiffe}")
both("bundle.set.stdin-empty", "bundle set -id other.test")
both("bundle.set.no-id", "bundle set -path {foreign_pem}")
both("bundle.set.own", "bundle set -id parity.test -path {foreign_pem}")
both("bundle.set.bad-id", "bundle set -id NOBODY -path {foreign_pem}")
both("bundle.set.bad-id-spiffe", "bundle set -id NOBODY -format spiffe -path {foreign_spiffe}")
both("bundle.set.no-file", "bundle set -id other.test -path {dir}/none")
both("bundle.set.not-pem", "bundle set -id other.test -path {not_pem}")
both("bundle.set.not-json", "bundle set -id other.test -format spiffe -path {not_json}")
both("bundle.set.bad-format", "bundle set -id other.test -format der -path {not_pem}")
both("bundle.list.two", "bundle list")
both("bundle.list.spiffe", "bundle list -format spiffe")
both("bundle.list.one", "bundle list -id other.test")
both("bundle.list.one.spiffe", "bundle list -id spiffe://other.test -format spiffe")
both("bundle.list.unknown", "bundle list -id nobody.test")
both("bundle.list.bad-id", "bundle list -id NOBODY")
both("bundle.list.own", "bundle list -id parity.test")
both("bundle.list.bad-format", "bundle list -format der")
both("bundle.count.three", "bundle count")
case("entry.create.federates", W + "federated -selector unix:uid:77 -federatesWith other.test",
     capture={"federated": r"Entry ID +: (\S+)"})
both("entry.show.federates", "entry show -federatesWith spiffe://other.test")
both("entry.show.federates.bad-id", "entry show -federatesWith NOBODY")
both("bundle.delete.restrict", "bundle delete -id other.test")
both("bundle.delete.no-id", "bundle delete")
both("bundle.delete.unknown", "bundle delete -id nobody.test")
both("bundle.delete.own", "bundle delete -id parity.test")
both("bundle.delete.bad-id", "bundle delete -id NOBODY")
both("bundle.delete.bad-mode", "bundle delete -id other.test -mode maybe")
case("bundle.delete.dissociate", "bundle delete -id other.test -mode dissociate")
both("entry.show.dissociated", "entry show -entryID {federated}")
case("bundle.delete.delete.json", "bundle delete -id third.test -mode delete -output json")

# Federation.

F = "federation create -trustDomain "
case("federation.create.web", F + "web.test -bundleEndpointURL https://127.0.0.1:1/x -bundleEndpointProfile https_web")
case("federation.create.spiffe.json", F + "spiffe.test -bundleEndpointURL https://127.0.0.1:1/x -bundleEndpointProfile "
     "https_spiffe -endpointSpiffeID spiffe://spiffe.test/endpoint -trustDomainBundlePath {foreign_pem} -output json")
case("federation.create.spiffe-format", F + "doc.test -bundleEndpointURL https://127.0.0.1:1/x -bundleEndpointProfile "
     "https_spiffe -endpointSpiffeID spiffe://doc.test/endpoint -trustDomainBundlePath {foreign_spiffe} "
     "-trustDomainBundleFormat spiffe")
case("federation.create.file", "federation create -data {relationships}")
case("federation.create.file.again.json", "federation create -data {relationships} -output json")
both("federation.create.again", F + "web.test -bundleEndpointURL https://127.0.0.1:1/x -bundleEndpointProfile https_web")
both("federation.create.no-trust-domain", "federation create -bundleEndpointURL https://127.0.0.1:1/x")
both("federation.create.no-url", F + "a.test")
both("federation.create.no-profile", F + "a.test -bundleEndpointURL https://127.0.0.1:1/x")
both("federation.create.http", F + "a.test -bundleEndpointURL http://127.0.0.1:1/x -bundleEndpointProfile https_web")
both("federation.create.bad-url", F + "a.test -bundleEndpointURL :x -bundleEndpointProfile https_web")
both("federation.create.user-in-url",
     F + "a.test -bundleEndpointURL https://u:p@127.0.0.1/x -bundleEndpointProfile https_web")
both("federation.create.bad-trust-domain",
     F + "NOBODY -bundleEndpointURL https://127.0.0.1:1/x -bundleEndpointProfile https_web")
both("federation.create.own", F + "parity.test -bundleEndpointURL https://127.0.0.1:1/x -bundleEndpointProfile https_web")
S = F + "a.test -bundleEndpointURL https://127.0.0.1:1/x -bundleEndpointProfile https_spiffe"
both("federation.create.no-endpoint-id", S)
both("federation.create.bad-endpoint-id", S + " -endpointSpiffeID web")
both("federation.create.no-bundle-file", S + " -endpointSpiffeID spiffe://a.test/e -trustDomainBundlePath {dir}/none")
both("federation.create.bad-bundle-file", S + " -endpointSpiffeID spiffe://a.test/e -trustDomainBundlePath {not_pem}")
both("federation.create.foreign-bundle", S + " -endpointSpiffeID spiffe://b.test/e -trustDomainBundlePath {foreign_pem}")
both("federation.create.flags-and-file", F + "a.test -data {relationships}")
both("federation.create.no-file", "federation create -data {dir}/none")
both("federation.create.not-json", "federation create -data {not_json}")
both("federation.create.bad-item", "federation create -data {bad_relationships}")
both("federation.list.all", "federation list")
both("federation.show", "federation show -trustDomain web.test")
both("federation.show.spiffe", "federation show -trustDomain spiffe.test")
both("federation.show.unknown", "federation show -trustDomain nobody.test")
both("federation.show.bad", "federation show -trustDomain NOBODY")
both("federation.show.none", "federation show")
V = "federation update -trustDomain "
case("federation.update", V + "web.test -bundleEndpointURL https://127.0.0.1:1/y -bundleEndpointProfile https_web")
case("federation.update.json", V + "web.test -bundleEndpointURL https://127.0.0.1:1/z -bundleEndpointProfile https_spiffe "
     "-endpointSpiffeID spiffe://web.test/e -output json")
both("federation.update.unknown",
     V + "nobody.test -bundleEndpointURL https://127.0.0.1:1/y -bundleEndpointProfile https_web")
both("federation.refresh.none", "federation refresh")
both("federation.refresh.unknown", "federation refresh -id nobody.test")
both("federation.refresh.bad", "federation refresh -id NOBODY")
case("federation.delete", "federation delete -id web.test")
case("federation.delete.json", "federation delete -id file-1.test -output json")
both("federation.delete.none", "federation delete")
both("federation.delete.unknown", "federation delete -id nobody.test")
both("federation.delete.bad", "federation delete -id NOBODY")

# Logger and debug.

both("logger.get", "logger get")
case("logger.set", "logger set -level warn")
case("logger.set.json", "logger set -level TRACE -output json")
both("logger.set.none", "logger set")
both("logger.set.bad", "logger set -level loud")
both("logger.reset", "logger reset")
both("debug.getinfo", "debug getinfo")
both("logger.get.no-socket", "logger get", socket="{dir}/none.sock")
agent_both("agent.logger.get", "logger get")
agent("agent.logger.set", "logger set -level error")
agent_both("agent.logger.set.bad", "logger set -level loud")
agent_both("agent.logger.reset", "logger reset")
agent_both("agent.debug.getinfo", "debug getinfo")
agent_both("agent.debug.getinfo.no-socket", "debug getinfo", socket="{dir}/none.sock")

# Signing keys. Each step is looked at.

for kind in ("jwt", "x509"):
    L = f"localauthority {kind} "
    both(f"localauthority.{kind}.show.first", L + "show", capture={f"{kind}_active": "active.authority_id"})
    for step in ("activate", "taint", "revoke"):
        both(f"localauthority.{kind}.{step}.no-id", L + step)
        both(f"localauthority.{kind}.{step}.unknown", L + step + " -authorityID none")
        both(f"localauthority.{kind}.{step}.active", L + step + f" -authorityID {{{kind}_active}}")
    case(f"localauthority.{kind}.prepare", L + "prepare")
    case(f"localauthority.{kind}.prepare.json", L + "prepare -output json",
         capture={f"{kind}_next": "prepared_authority.authority_id"})
    both(f"localauthority.{kind}.show.prepared", L + "show")
    both(f"localauthority.{kind}.taint.prepared", L + f"taint -authorityID {{{kind}_next}}")
    case(f"localauthority.{kind}.activate", L + f"activate -authorityID {{{kind}_next}}")
    both(f"localauthority.{kind}.show.activated", L + "show")
    both(f"localauthority.{kind}.revoke.untainted", L + f"revoke -authorityID {{{kind}_active}}")
    case(f"localauthority.{kind}.taint.json", L + f"taint -authorityID {{{kind}_active}} -output json")
    both(f"localauthority.{kind}.taint.again", L + f"taint -authorityID {{{kind}_active}}")
    both(f"bundle.show.tainted.{kind}", "bundle show")
    case(f"localauthority.{kind}.revoke", L + f"revoke -authorityID {{{kind}_active}}")
    both(f"localauthority.{kind}.show.revoked", L + "show")
    both(f"bundle.show.revoked.{kind}", "bundle show")
for step in ("taint", "revoke"):
    both(f"upstreamauthority.{step}.no-id", f"upstreamauthority {step}")
    both(f"upstreamauthority.{step}.none", f"upstreamauthority {step} -subjectKeyID abc")
case("usage.localauthority-wit", "localauthority wit show", socket="none")

# Agents.

case("agent.list.json", "agent list -output json", capture={"agent_path": "agents.0.id.path"})
case("agent.list.pretty", "agent list")
A = " -spiffeID spiffe://parity.test{agent_path}"
for flags in ("-attestationType join_token", "-attestationType x509pop", "-banned true", "-banned=false", "-canReattest true",
              "-canReattest=false", "-selector a:b", "-selector a:b -matchSelectorsOn any", "-selector a", "-selector a:b "
              "-matchSelectorsOn wrong"):
    name = flags.replace("-", "").replace(" ", "-").replace("=", "-").replace(":", "-")
    both(f"agent.list.{name}", "agent list " + flags)
    both(f"agent.count.{name}", "agent count " + flags)
both("agent.list.expires", ["agent", "list", "-expiresBefore", "2100-01-01 00:00:00 -0000 -00"])
both("agent.list.expired", ["agent", "list", "-expiresBefore", "2001-01-01 00:00:00 -0700 -07"])
both("agent.list.bad-time", ["agent", "list", "-expiresBefore", "tomorrow"])
both("agent.count.all", "agent count")
both("agent.show", "agent show" + A)
both("agent.show.none", "agent show")
both("agent.show.bad", "agent show -spiffeID web")
both("agent.show.unknown", "agent show -spiffeID spiffe://parity.test/spire/agent/join_token/none")
both("agent.show.no-agent", "agent show -spiffeID spiffe://parity.test/web")
both("agent.show.foreign", "agent show -spiffeID spiffe://other.test/spire/agent/x/y")
both("agent.purge.nothing", "agent purge")
both("agent.purge.dry", "agent purge -dryRun -expiredFor 0s")
both("agent.purge.no-socket", "agent purge", socket="{dir}/none.sock")
for verb in ("ban", "evict"):
    both(f"agent.{verb}.none", f"agent {verb}")
    both(f"agent.{verb}.bad", f"agent {verb} -spiffeID web")
    both(f"agent.{verb}.unknown", f"agent {verb} -spiffeID spiffe://parity.test/spire/agent/join_token/none")
    both(f"agent.{verb}.no-agent", f"agent {verb} -spiffeID spiffe://parity.test/web")
case("agent.ban", "agent ban" + A)
case("agent.ban.again.json", "agent ban" + A + " -output json")
both("agent.show.banned", "agent show" + A)
both("agent.list.banned", "agent list")
case("agent.evict", "agent evict" + A)
both("agent.list.evicted", "agent list")
case("agent.evict.again.json", "agent evict" + A + " -output json")

# Entries go.

case("entry.update.flag-false", "entry update -entryID {db}" + U + " -jwtSVIDIncludeJTI=false")
case("entry.delete", "entry delete -entryID {web}")
case("entry.delete.json", "entry delete -entryID {db} -output json")
both("entry.delete.unknown", "entry delete -entryID none")
both("entry.delete.none", "entry delete")
both("entry.delete.file", "entry delete -file {deletions}")
both("entry.delete.no-file", "entry delete -file {dir}/none")
both("entry.delete.not-json", "entry delete -file {not_json}")

# Configuration.

for program in ("server", "agent"):
    unknown = "{unknown_key}" if program == "server" else "{unknown_agent_key}"
    case(f"validate.{program}.good", f"validate -config {{dir}}/{program}.conf", program, socket="none")
    for command in ("validate", "run"):
        case(f"{command}.{program}.no-file", f"{command} -config {{dir}}/none.conf", program, socket="none")
        case(f"{command}.{program}.default-file", command, program, socket="none")
        case(f"{command}.{program}.unknown-key", f"{command} -config {unknown}", program, socket="none")
        case(f"{command}.{program}.not-hcl", f"{command} -config {{not_json}}", program, socket="none")
        case(f"usage.{command}.{program}", f"{command} -nope", program, socket="none")

# Sockets that are not there.

for words in ("entry show", "entry show -entryID a", "entry count", "entry delete -entryID a", W + "x -selector a:b",
              "entry update -entryID a" + U, "entry update -entryID a -jwtSVIDIncludeJTI" + U, "agent list", "agent count",
              "agent show -spiffeID spiffe://parity.test/x", "agent ban -spiffeID spiffe://parity.test/x",
              "agent evict -spiffeID spiffe://parity.test/x", "token generate", "bundle show", "bundle count", "bundle list",
              "bundle list -id a", "bundle set -id a.test -path {foreign_pem}", "bundle delete -id a", "federation list",
              "federation show -trustDomain a", "federation delete -id a", "federation refresh -id a",
              F + "a -bundleEndpointURL https://a -bundleEndpointProfile https_web",
              V + "a -bundleEndpointURL https://a -bundleEndpointProfile https_web", "x509 mint -spiffeID spiffe://a/b",
              "jwt mint -spiffeID spiffe://a/b -audience c", "localauthority x509 show", "localauthority jwt show",
              "localauthority x509 prepare", "localauthority jwt activate -authorityID a", "upstreamauthority taint "
              "-subjectKeyID a", "logger set -level info", "logger reset", "debug getinfo"):
    name = "-".join(word for word in words.split() if not word.startswith("-") and "/" not in word and "{" not in word)
    more = ".id" if "-entryID a -jwt" in words or words in ("entry show -entryID a", "bundle list -id a") else ""
    both(f"no-socket.{name}{more}", words, socket="{dir}/none.sock")

# Wrong and missing words and flags: the exit code.

SERVER_LEAVES = (
    "run", "validate", "healthcheck", "token generate", "entry create", "entry update", "entry delete", "entry show",
    "entry count", "agent list", "agent count", "agent show", "agent ban", "agent evict", "agent purge", "bundle show",
    "bundle list", "bundle set", "bundle delete", "bundle count", "federation create", "federation update", "federation list",
    "federation show", "federation delete", "federation refresh", "x509 mint", "jwt mint", "localauthority x509 show",
    "localauthority x509 prepare", "localauthority x509 activate", "localauthority x509 taint", "localauthority x509 revoke",
    "localauthority jwt show", "localauthority jwt prepare", "localauthority jwt activate", "localauthority jwt taint",
    "localauthority jwt revoke", "upstreamauthority taint", "upstreamauthority revoke", "logger get", "logger set",
    "logger reset", "debug getinfo")
AGENT_LEAVES = (
    "run", "validate", "healthcheck", "api fetch", "api fetch x509", "api fetch jwt", "api validate jwt", "api watch",
    "logger get", "logger set", "logger reset", "debug getinfo")
for program, leaves in (("server", SERVER_LEAVES), ("agent", AGENT_LEAVES)):
    case(f"version.{program}", "--version", program, socket="none")
    for words in ("", "bogus", "-h", "--help"):
        case(f"usage.{program}.{words or 'nothing'}", words, program, socket="none")
    parents = {leaf.rsplit(" ", depth)[0] for leaf in leaves for depth in range(1, leaf.count(" ") + 1)} - {"api fetch"}
    for parent in sorted(parents):
        case(f"usage.{program}.{parent.replace(' ', '-')}", parent, program, socket="none")
        case(f"usage.{program}.{parent.replace(' ', '-')}.bogus", parent + " bogus", program, socket="none")
    for leaf in leaves:
        name = leaf.replace(" ", "-")
        case(f"help.{program}.{name}", leaf + " -h", program, socket="none")
        if leaf not in ("run", "validate"):
            case(f"usage.{program}.{name}.unknown-flag", leaf + " -nope", program, socket="none")
            case(f"usage.{program}.{name}.no-value", leaf + " -socketPath", program, socket="none")
        if leaf not in ("run", "validate", "healthcheck", "api watch"):
            case(f"usage.{program}.{name}.bad-output", leaf + " -output yaml", program, socket="none")
