use proptest::prelude::*;
use serde_json::json;

use super::*;

fn data() -> Data<'static> {
    let pod = json!({
        "name": "web-1", "namespace": "shop", "uid": "u-1", "labels": { "app": "web", "tier/x": "front" },
        "creationTimestamp": "2026-11-21T10:00:00Z",
    });
    let spec = json!({
        "serviceAccountName": "till", "nodeName": "node-1", "hostNetwork": true,
        "containers": [{ "name": "main", "image": "shop:1" }, { "name": "side", "image": "proxy:2" }],
        "securityContext": { "runAsUser": 1000 },
        "volumes": [{ "name": "s", "secret": { "secretName": "key" } }],
    });
    Data {
        trust_domain: "example.org",
        cluster_name: "blue",
        cluster_domain: "cluster.local",
        pod: Some((Object::meta(pod), Object::pod_spec(spec))),
        node: (Object::meta(json!({ "name": "node-1", "uid": "n-1" })), Object::node_spec(json!({}))),
    }
}

fn render(text: &str) -> Result<String, String> {
    let template = Template::parse("t", text).map_err(|error| error.to_string())?;
    template.render(&data()).map_err(|error| error.to_string())
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(render(text).as_deref(), Ok(expected), "{text}");
}

#[track_caller]
fn check_error(text: &str, expected: &str) {
    let error = render(text).expect_err(text);
    assert!(error.contains(expected), "{text}: {error}");
}

#[test]
fn the_templates_of_the_documentation_give_what_go_gives() {
    check(
        "spiffe://{{ .TrustDomain }}/spire/agent/k8s_psat/{{ .ClusterName }}/{{ .NodeMeta.UID }}",
        "spiffe://example.org/spire/agent/k8s_psat/blue/n-1",
    );
    check(
        "spiffe://domain.test/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}",
        "spiffe://domain.test/ns/shop/sa/till",
    );
    check("{{ .PodMeta.Name }}.{{ .PodMeta.Namespace }}.{{ .ClusterDomain }}", "web-1.shop.cluster.local");
    check("k8s:pod-label:app:{{ index .PodMeta.Labels \"app\" }}", "k8s:pod-label:app:web");
}

#[test]
fn what_is_not_set_has_gos_zero_value_and_a_missing_key_is_empty() {
    check("[{{ .PodSpec.SchedulerName }}]", "[]");
    check("{{ .PodSpec.HostPID }} {{ .PodSpec.HostNetwork }}", "false true");
    check("{{ len .NodeSpec.Taints }}{{ len .NodeMeta.Labels }}", "00");
    check("[{{ index .PodMeta.Labels \"team\" }}]", "[]");
    check("{{ .PodMeta.Labels.team }}", "<no value>");
    check("{{ if .PodMeta.Labels.team }}team{{ else }}none{{ end }}", "none");
    check("{{ or .PodMeta.Labels.team \"nobody\" }}", "nobody");
    check("{{ .PodMeta.CreationTimestamp }}", "2026-11-21 10:00:00 +0000 UTC");
    check("{{ .NodeMeta.CreationTimestamp }}", "0001-01-01 00:00:00 +0000 UTC");
    check("{{ if .PodSpec.Affinity }}a{{ else }}b{{ end }}", "b");
}

#[test]
fn a_field_that_does_not_exist_is_an_error_as_in_go() {
    check_error("{{ .PodMeta.name }}", "can't evaluate field name in type v1.ObjectMeta");
    check_error("{{ .Pod }}", "can't evaluate field Pod in");
    check_error("{{ if .PodSpec.Nmae }}{{ end }}", "can't evaluate field Nmae in type v1.PodSpec");
    check_error("{{ .PodMeta.Name.First }}", "can't evaluate field First in type string");
    check_error("{{ .PodSpec.Affinity.NodeAffinity }}", "nil pointer evaluating NodeAffinity");
    check_error("{{ range .PodSpec.Containers }}{{ .Nothing }}{{ end }}", "in type v1.Container");
}

#[test]
fn fields_are_reached_by_every_way_that_the_language_has() {
    check("{{ with .PodSpec }}{{ .ServiceAccountName }} {{ $.ClusterName }}{{ end }}", "till blue");
    check("{{ range .PodSpec.Containers }}{{ .Image }};{{ end }}", "shop:1;proxy:2;");
    check("{{ range $i, $c := .PodSpec.Containers }}{{ $i }}{{ $c.Name }}{{ end }}", "0main1side");
    check("{{ (index .PodSpec.Containers 1).Name }}", "side");
    check("{{ $meta := .PodMeta }}{{ $meta.Labels.app }}", "web");
    check("{{ (index .PodSpec.Volumes 0).Secret.SecretName }}", "key");
    check("{{ (index .PodSpec.Volumes 0).VolumeSource.Secret.SecretName }}", "key");
    check("{{ .PodSpec.SecurityContext.RunAsUser }}", "1000");
    check("{{ .PodMeta.GetNamespace }}", "shop");
    check("{{ .PodMeta.Name | printf \"%s-%s\" .ClusterName | len }}", "10");
    check("{{ define \"id\" }}{{ .Name }}{{ end }}{{ template \"id\" .PodMeta }}", "web-1");
    check("{{ range $k, $v := .PodMeta.Labels }}{{ $k }}={{ $v }},{{ end }}", "app=web,tier/x=front,");
}

#[test]
fn what_is_not_a_template_says_where() {
    check_error("spiffe://{{ .TrustDomain", "template: t:1");
    check_error("{{ upper .PodMeta.Name }}", "function \"upper\" not defined");
    check_error("{{ guard . }}", "function \"guard\" not defined");
    check_error("{{ if }}x{{ end }}", "template: t:1");
    check_error("{{ template \"x\" }}", "template \"x\" is not defined");
}

#[test]
fn a_template_cannot_take_more_than_its_share() {
    check_error(&"x".repeat(MAX_TEMPLATE_BYTES + 1), "16385 bytes");
    check_error(
        "{{ define \"a\" }}{{ template \"b\" }}{{ end }}{{ define \"b\" }}{{ template \"a\" }}{{ end }}{{ template \"a\" }}",
        "calls itself",
    );
    check_error("{{ range 100000 }}{{ end }}", "iteration");
    check_error("{{ range 2000 }}0123456789{{ end }}", "output is longer");
    let doubling = format!("{{{{ $x := \"0123456789\" }}}}{}", "{{ $x = printf \"%s%s\" $x $x }}".repeat(30));
    check_error(&doubling, "a text is longer than");
    let handed_on: String = (0..30)
        .map(|n| {
            format!(
                "{{{{ define \"h{n}\" }}}}{{{{ template \"h{}\" (printf \"%s%s\" . .) }}}}{{{{ end }}}}",
                n + 1
            )
        })
        .collect();
    check_error(
        &format!(
            "{handed_on}{{{{ define \"h30\" }}}}{{{{ len . }}}}{{{{ end }}}}{{{{ template \"h0\" \"0123456789\" }}}}"
        ),
        "a text is longer than",
    );
    let bombs: String = (0..40)
        .map(|n| format!("{{{{ define \"d{n}\" }}}}{{{{ template \"d{0}\" . }}}}{{{{ template \"d{0}\" . }}}}{{{{ end }}}}", n + 1))
        .collect();
    check_error(
        &format!("{bombs}{{{{ define \"d40\" }}}}x{{{{ end }}}}{{{{ template \"d0\" . }}}}"),
        "more than 2000 steps",
    );
}

#[test]
fn functions_cannot_blow_a_text_up() {
    check_error(&format!("{{{{ \"\\\\\"{} }}}}", " | js".repeat(36)), "a text is longer than");
    let nested = (0..36).fold("\"\\\\\"".to_owned(), |inner, _| format!("(js {inner})"));
    check_error(&format!("{{{{ len {nested} }}}}"), "a text is longer than");
    check_error(
        &format!("{{{{ \"0123456789\"{} }}}}", " | printf \"%[1]s%[1]s\"".repeat(36)),
        "a text is longer than",
    );
    check_error(&format!("{{{{ \"\\\"\"{} }}}}", " | printf \"%q\"".repeat(36)), "a text is longer than");
    check_error(&format!("{{{{ len (printf {:?} \"x\") }}}}", "%65535s".repeat(2_000)), "a width of printf");
    check_error("{{ len (printf \"%*d\" 65535 1) }}", "a width of printf");
    let thousand = "x".repeat(1_000);
    let often = "%[1]s".repeat(2_000);
    check_error(&format!("{{{{ len (printf {often:?} {thousand:?}) }}}}"), "printf: a text is longer than");
    check_error(
        &format!("{{{{ len (printf {:?} 1) }}}}", "%1024d".repeat(100)),
        "printf: a text is longer than",
    );
    let many = " $x".repeat(100);
    check_error(
        &format!("{{{{ $x := {thousand:?} }}}}{{{{ len (print{many}) }}}}"),
        "print: a text is longer than",
    );
}

#[test]
fn functions_within_their_bounds_do_what_they_do_in_go() {
    check("{{ printf \"%[2]s-%[1]s\" \"a\" \"b\" }}", "b-a");
    check("{{ printf \"%5s|%.2s|%05d|%q\" \"a\" \"bcd\" 7 \"e\" }}", "    a|bc|00007|\"e\"");
    check("{{ print 1 2 \"x\" }} {{ println \"x\" }}", "1 2x x\n");
    check("{{ html \"<a>\" }} {{ \"a b\" | urlquery }} {{ js \"'\" }}", "&lt;a&gt; a+b \\'");
    check("{{ printf \"%v %s\" .PodMeta.Labels.team .PodMeta.Name }}", "<nil> web-1");
}

#[test]
fn a_parent_is_named_without_a_pod() {
    let template = Template::parse("p", "{{ .NodeMeta.Name }}{{ .PodMeta.Name }}").unwrap();
    let error = template.render(&Data { pod: None, ..data() }).unwrap_err();
    assert!(error.to_string().contains("nil pointer evaluating Name"), "{error}");
}

proptest! {
    #[test]
    fn any_text_is_a_template_or_refused_and_runs_or_fails_without_a_panic(
        text in "(\\{\\{ ?-?|-? ?\\}\\}|\\.PodMeta|\\.Labels|\\$|:=|range|if|end|else|with|define|template|index|printf|\"%d\"|[ a.()|=])*|\\PC{0,40}"
    ) {
        if let Ok(template) = Template::parse("t", &text) {
            let _ignored = template.render(&data()).is_ok();
        }
    }
}
