package apiserver

import (
	"bytes"
	"context"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"github.com/spf13/cobra"
	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/cmd/sluice/kubectl"
)

var _ = Describe("kubectl sluice", func() {
	run := func(cmd *cobra.Command, args ...string) (string, error) {
		var out bytes.Buffer
		cmd.SetArgs(append(args, "--kubeconfig", kubeconfig, "-n", "default"))
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		err := cmd.ExecuteContext(context.Background())
		return out.String(), err
	}
	// applied is a processor that a field manager has applied.
	applied := func(name, manager string) {
		var object unstructured.Unstructured
		Expect(yaml.Unmarshal([]byte(`
apiVersion: sluice.dev/v1alpha1
kind: EventProcessor
metadata: {name: `+name+`, namespace: default}
spec:
  desiredState: Running
  store: {type: Postgres, postgres: {urlSecretRef: {name: db}}}
  processingGroups:
  - {name: first, segments: 4, handler: {type: Go}}
  - {name: second, segments: 4, handler: {type: Go}}
`), &object)).To(Succeed())
		Expect(apiClient.Apply(context.Background(), client.ApplyConfigurationFromUnstructured(&object), client.FieldOwner(manager))).To(Succeed())
		DeferCleanup(func() { Expect(apiClient.Delete(context.Background(), &object)).To(Succeed()) })
	}
	get := func(name string) v1alpha1.EventProcessor {
		var p v1alpha1.EventProcessor
		Expect(apiClient.Get(context.Background(), client.ObjectKey{Namespace: "default", Name: name}, &p)).To(Succeed())
		return p
	}

	It("sets the field that declares the thing, and no other", func() {
		applied("edited", "kubectl")
		Expect(run(kubectl.Segments(), "second", "-p", "edited", "--count", "8")).To(ContainSubstring("spec.processingGroups[second].segments is 8"))
		Expect(run(kubectl.Segments(), "second", "-p", "edited")).To(Equal("8\n"))
		Expect(run(kubectl.Pause(), "edited")).To(ContainSubstring("spec.desiredState is Paused"))
		Expect(run(kubectl.Pause(), "edited", "--group", "first")).Error().NotTo(HaveOccurred())
		p := get("edited")
		Expect(p.Spec.DesiredState).To(Equal(v1alpha1.DesiredStatePaused))
		Expect(p.Spec.ProcessingGroups[0].DesiredState).To(Equal(v1alpha1.DesiredStatePaused))
		Expect([]int32{p.Spec.ProcessingGroups[0].Segments, p.Spec.ProcessingGroups[1].Segments}).To(Equal([]int32{4, 8}))
		Expect(run(kubectl.Resume(), "edited")).Error().NotTo(HaveOccurred())
		Expect(get("edited").Spec.DesiredState).To(Equal(v1alpha1.DesiredStateRunning))
	})

	It("refuses what cannot be, and says why", func() {
		applied("edited", "kubectl")
		_, err := run(kubectl.Segments(), "third", "-p", "edited", "--count", "8")
		Expect(err).To(MatchError(ContainSubstring("choose one of first, second")))
		_, err = run(kubectl.Segments(), "first", "-p", "edited", "--count", "0")
		Expect(err).To(MatchError(ContainSubstring("should be greater than or equal to 1")))
		_, err = run(kubectl.Pause(), "nobody")
		Expect(err).To(MatchError(ContainSubstring(`"nobody" not found`)))
	})

	It("says when the operator renewed its Lease last", func() {
		applied("watched", "kubectl")
		Expect(run(kubectl.Status(), "watched")).To(ContainSubstring("! no operator has a Lease in this cluster"))
		lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: v1alpha1.OperatorLease},
			Spec: coordinationv1.LeaseSpec{RenewTime: &metav1.MicroTime{Time: time.Now().Add(-5 * time.Hour)}}}
		Expect(apiClient.Create(context.Background(), lease)).To(Succeed())
		DeferCleanup(func() { Expect(apiClient.Delete(context.Background(), lease)).To(Succeed()) })
		Expect(run(kubectl.Status(), "watched")).To(ContainSubstring("! the operator renewed its Lease default/sluice-operator.sluice.dev 5h ago"))
		lease.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
		Expect(apiClient.Update(context.Background(), lease)).To(Succeed())
		Expect(run(kubectl.Status(), "watched")).NotTo(ContainSubstring("Lease"))
	})

	It("leaves fields to the GitOps tool that manages them", func() {
		applied("synced", "argocd-controller")
		out, err := run(kubectl.Segments(), "second", "-p", "synced", "--count", "8")
		Expect(err).To(MatchError(ContainSubstring("nothing was changed: argocd-controller manages")))
		Expect(out).To(ContainSubstring("- name: second\n    segments: 8"))
		Expect(get("synced").Spec.ProcessingGroups[1].Segments).To(Equal(int32(4)))
	})

	It("asks for replays", func() {
		applied("replayed", "kubectl")
		out, err := run(kubectl.Replay(), "replayed", "--group", "first", "--tell", "why=rounding", "--from", "position=7", "--no-wait")
		Expect(out, err).To(ContainSubstring("replay replayed."))
		out, err = run(kubectl.Replay(), "replayed", "--group", "first", "--group", "second", "--id", "mine", "--no-wait")
		Expect(out, err).To(ContainSubstring("replay replayed.mine of first, second created"))
		var list v1alpha1.ReplayList
		Expect(apiClient.List(context.Background(), &list)).To(Succeed())
		Expect(list.Items).To(ContainElement(And(HaveField("Spec.ProcessorName", "replayed"), HaveField("Spec.Context", HaveKeyWithValue("why", BeEquivalentTo("rounding"))),
			HaveField("Spec.From.Position", "7"))))
		for args, message := range map[string]string{
			"replayed --group first --id mine": "an id runs once", "replayed --group third": "choose one of first, second", "replayed": "--group is missing",
			"replayed --group first --from never": "none of earliest", "replayed --follow": "--follow needs --id", "replayed --follow --id no": "there is no Replay",
		} {
			_, err := run(kubectl.Replay(), strings.Fields(args)...)
			Expect(err).To(MatchError(ContainSubstring(message)), args)
		}
		Expect(apiClient.DeleteAllOf(context.Background(), &v1alpha1.Replay{}, client.InNamespace("default"))).To(Succeed())
	})

	It("shows what is wrong, and the groups", func() {
		applied("shown", "kubectl")
		p := get("shown")
		p.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonSecretNotFound,
			Message: "secret db does not exist", LastTransitionTime: metav1.Now()}}
		Expect(apiClient.Status().Update(context.Background(), &p)).To(Succeed())
		Expect(run(kubectl.Status(), "shown")).To(And(ContainSubstring("NOT READY"), ContainSubstring("SecretNotFound: secret db does not exist"),
			MatchRegexp(`first +0/4`), ContainSubstring("the operator has not looked at generation 1 yet")))
		_, err := run(kubectl.Status(), "nobody")
		Expect(err).To(MatchError(ContainSubstring(`"nobody" not found`)))
		Expect(run(kubectl.Status(), "-A")).To(ContainSubstring("default/shown"))
	})
})
