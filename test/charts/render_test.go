package charts

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/sluice-project/sluice/internal/docstest"
)

func TestChartsPassHelmsLinter(t *testing.T) {
	for _, name := range []string{"sluice", "sluice-crds"} {
		if _, err := helm("lint", "--strict", chart(t, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestWhatEachInstallConsistsOf(t *testing.T) {
	const kinds = "CustomResourceDefinition eventprocessors.sluice.dev, CustomResourceDefinition replays.sluice.dev, "
	const operator = "Deployment sluice-system/sluice, PodDisruptionBudget sluice-system/sluice, " +
		"Role sluice-system/sluice-leader-election, RoleBinding sluice-system/sluice-leader-election, " +
		"Service sluice-system/sluice-metrics, ServiceAccount sluice-system/sluice, "
	const cluster = "ClusterRole sluice-operator, ClusterRole sluice-view, ClusterRole sluice-edit, ClusterRole sluice-replayer, " +
		"ClusterRoleBinding sluice-operator, "
	roles := func(namespace string) string {
		return strings.ReplaceAll("Role NS/sluice-operator, Role NS/sluice-view, Role NS/sluice-edit, Role NS/sluice-replayer, "+
			"RoleBinding NS/sluice-operator, ", "NS", namespace)
	}
	for name, test := range map[string]struct {
		chart, want string
		flags       []string
	}{
		"default":          {"sluice", kinds + operator + cluster, nil},
		"without CRDs":     {"sluice", operator + cluster, []string{"--set", "crds.enabled=false"}},
		"CRDs alone":       {"sluice-crds", kinds, nil},
		"two namespaces":   {"sluice", operator + roles("a") + roles("b"), []string{"--set", "crds.enabled=false,watchNamespaces={a,b}"}},
		"nothing optional": {"sluice", "Deployment sluice-system/sluice, ", []string{"--set", "crds.enabled=false,rbac.create=false,rbac.userRoles=false,serviceAccount.create=false,podDisruptionBudget.enabled=false,metrics.service.enabled=false"}},
	} {
		t.Run(name, func(t *testing.T) {
			want := slices.Sorted(slices.Values(strings.Split(strings.TrimSuffix(test.want, ", "), ", ")))
			got := slices.Sorted(maps.Keys(render(t, test.chart, test.flags...)))
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestCRDsAreThoseOfConfig(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(crds, "sluice.dev_*.yaml"))
	if err != nil || len(files) != 2 {
		t.Fatalf("got files %v, want two: %v", files, err)
	}
	for keep, want := range map[string]string{"true": "keep", "false": ""} {
		rendered := render(t, "sluice", "--set", "crds.keep="+keep)
		for _, file := range files {
			source := decode(t, read(t, file)).(*apiextensionsv1.CustomResourceDefinition)
			got := get[*apiextensionsv1.CustomResourceDefinition](t, rendered, "CustomResourceDefinition "+source.Name)
			if diff := cmp.Diff(source.Spec, got.Spec); diff != "" {
				t.Errorf("%s (-config +chart): run make generate\n%s", file, diff)
			}
			if policy := got.Annotations["helm.sh/resource-policy"]; policy != want {
				t.Errorf("%s with keep %s: got policy %q, want %q", source.Name, keep, policy, want)
			}
		}
	}
}

func TestRolesAreThoseOfConfig(t *testing.T) {
	cluster := render(t, "sluice")
	namespaced := render(t, "sluice", "--set", "crds.enabled=false,watchNamespaces={a}")
	for _, file := range []string{"role.yaml", "leader_election_role.yaml", "user_roles.yaml"} {
		for _, document := range strings.Split(string(read(t, filepath.Join(rbac, file))), "\n---") {
			switch source := decode(t, []byte(document)).(type) {
			case *rbacv1.ClusterRole:
				got := get[*rbacv1.ClusterRole](t, cluster, "ClusterRole "+source.Name)
				if diff := cmp.Diff(source.Rules, got.Rules); diff != "" {
					t.Errorf("%s (-config +chart)\n%s", source.Name, diff)
				}
				for label := range source.Labels {
					if got.Labels[label] != "true" {
						t.Errorf("%s has no label %s", source.Name, label)
					}
				}
				role := get[*rbacv1.Role](t, namespaced, "Role a/"+source.Name)
				if diff := cmp.Diff(source.Rules, role.Rules); diff != "" {
					t.Errorf("%s of one namespace (-config +chart)\n%s", source.Name, diff)
				}
			case *rbacv1.Role:
				got := get[*rbacv1.Role](t, cluster, "Role sluice-system/sluice-leader-election")
				if diff := cmp.Diff(source.Rules, got.Rules); diff != "" {
					t.Errorf("%s (-config +chart)\n%s", source.Name, diff)
				}
			default:
				t.Errorf("%s has a %T", file, source)
			}
		}
	}
}

// TestTheDocsSayWhatTheOperatorMayDo has the table of docs/operations/operator.md be that of the
// role.
func TestTheDocsSayWhatTheOperatorMayDo(t *testing.T) {
	role, ok := decode(t, read(t, filepath.Join(rbac, "role.yaml"))).(*rbacv1.ClusterRole)
	if !ok {
		t.Fatal("role.yaml has no ClusterRole")
	}
	may := map[string]string{}
	for _, rule := range role.Rules {
		for _, resource := range rule.Resources {
			may[resource] = strings.Join(rule.Verbs, ", ")
		}
	}
	docs := map[string]string{}
	for line := range strings.Lines(docstest.Section(t, "../../docs/operations/operator.md", "## What it may do")) {
		cells := strings.Split(line, "|")
		if len(cells) != 5 || strings.Contains(cells[1], "--") || strings.TrimSpace(cells[1]) == "resource" {
			continue
		}
		resources, _, _ := strings.Cut(cells[1], "(")
		for _, resource := range strings.Split(resources, ",") {
			docs[strings.TrimSpace(resource)] = strings.TrimSpace(cells[2])
		}
	}
	if diff := cmp.Diff(may, docs); diff != "" {
		t.Errorf("(-role +docs)\n%s", diff)
	}
}

func TestTheOperatorMayNotListSecretsNorUseWildcards(t *testing.T) {
	role := get[*rbacv1.ClusterRole](t, render(t, "sluice"), "ClusterRole sluice-operator")
	for _, rule := range role.Rules {
		if all := slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs); slices.Contains(all, "*") {
			t.Errorf("rule %v has a wildcard", rule)
		}
		if slices.Contains(rule.Resources, "secrets") && !slices.Equal(rule.Verbs, []string{"get"}) {
			t.Errorf("rule %v lets it do more with secrets than get one", rule)
		}
	}
}

func TestTheOperatorsCommandLine(t *testing.T) {
	for name, test := range map[string]struct{ flags, want []string }{
		"default": {nil, []string{"operator", "--leader-elect", "--worker-image=sluice:0.1.0", "--metrics-bind-address=:8080",
			"--health-probe-bind-address=:8081", "--cluster-name=kubernetes"}},
		"everything set": {
			[]string{"--set", "image.repository=r/s,image.tag=v1,workerImage=r/w:2,clusterName=east,formerInstallations={0ld,01der},watchNamespaces={a,b},extraArgs={--v=4}"},
			[]string{"operator", "--leader-elect", "--worker-image=r/w:2", "--metrics-bind-address=:8080",
				"--health-probe-bind-address=:8081", "--cluster-name=east", "--former-installation=0ld", "--former-installation=01der", "--watch-namespace=a", "--watch-namespace=b", "--v=4"}},
		"the worker's image is the operator's": {
			[]string{"--set", "image.digest=sha256:" + strings.Repeat("0", 64)},
			[]string{"operator", "--leader-elect", "--worker-image=sluice@sha256:" + strings.Repeat("0", 64),
				"--metrics-bind-address=:8080", "--health-probe-bind-address=:8081", "--cluster-name=kubernetes"}},
	} {
		t.Run(name, func(t *testing.T) {
			deployment := get[*appsv1.Deployment](t, render(t, "sluice", test.flags...), "Deployment sluice-system/sluice")
			if diff := cmp.Diff(test.want, deployment.Spec.Template.Spec.Containers[0].Args); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestTheOperatorRunsUnderTheRestrictedProfile(t *testing.T) {
	pod := get[*appsv1.Deployment](t, render(t, "sluice"), "Deployment sluice-system/sluice").Spec.Template.Spec
	if !ptr.Deref(pod.SecurityContext.RunAsNonRoot, false) ||
		pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("got pod security context %+v", pod.SecurityContext)
	}
	for _, container := range pod.Containers {
		security := container.SecurityContext
		if ptr.Deref(security.AllowPrivilegeEscalation, true) || !ptr.Deref(security.ReadOnlyRootFilesystem, false) ||
			!slices.Equal(security.Capabilities.Drop, []corev1.Capability{"ALL"}) {
			t.Errorf("got security context %+v of %s", security, container.Name)
		}
	}
}

func TestWrongValuesAreRefused(t *testing.T) {
	for name, test := range map[string]struct{ flag, want string }{
		"unknown value":             {"replicaz=2", "replicaz"},
		"unknown value of the CRDs": {"crds.kept=true", "kept"},
		"negative replicas":         {"replicas=-1", "replicas"},
		"not a namespace":           {"watchNamespaces={Team A}", "watchNamespaces"},
		"not a digest":              {"image.digest=latest", "digest"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := helm("template", "sluice", chart(t, "sluice"), "--set", test.flag)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one that names %s", err, test.want)
			}
		})
	}
}

func TestTheReadmesTablesHaveEveryValue(t *testing.T) {
	for _, name := range []string{"sluice", "sluice-crds"} {
		var values map[string]any
		if err := yaml.Unmarshal(read(t, filepath.Join(sources, name, "values.yaml")), &values); err != nil {
			t.Fatal(err)
		}
		got := documented(string(read(t, filepath.Join(sources, name, "README.md"))))
		want := map[string]string{}
		flatten(t, "", values, got, want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-values.yaml +README.md)\n%s", name, diff)
		}
	}
}

// documented are the values of a README's table and their defaults.
func documented(readme string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(readme) {
		if cells := strings.Split(line, "|"); len(cells) == 5 && strings.HasPrefix(cells[1], " `") {
			found[strings.Trim(cells[1], " `")] = strings.Trim(cells[2], " `")
		}
	}
	return found
}

// flatten takes a value as one where it is documented as one, else by its fields.
func flatten(t *testing.T, path string, value any, documented, into map[string]string) {
	fields, object := value.(map[string]any)
	if _, whole := documented[path]; whole || !object || len(fields) == 0 {
		into[path] = compact(t, value)
		return
	}
	for name, field := range fields {
		flatten(t, strings.TrimPrefix(path+"."+name, "."), field, documented, into)
	}
}
