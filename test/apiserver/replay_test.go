package apiserver

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/sluice-project/sluice/api/rules"
	"github.com/sluice-project/sluice/api/v1alpha1"
)

var _ = Describe("A Replay", func() {
	newReplay := func(name string) *v1alpha1.Replay {
		return &v1alpha1.Replay{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
			Spec: v1alpha1.ReplaySpec{ProcessorName: "payments", Groups: []string{"view"},
				Context: map[string]v1alpha1.ContextValue{"why": "rounding"}},
		}
	}
	stored := func(ctx SpecContext, name string) *v1alpha1.Replay {
		replay := newReplay(name)
		Expect(apiClient.Create(ctx, replay)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(apiClient.Delete(ctx, replay)).To(Succeed()) })
		return replay
	}

	It("gets its defaults, and its id from its name", func(ctx SpecContext) {
		replay := stored(ctx, "payments.2026-11-fix")
		Expect(replay.Spec.From.Type).To(Equal(v1alpha1.ReplayFromEarliest))
		Expect(replay.Spec.DesiredState).To(Equal(v1alpha1.ReplayRunning))
		Expect(replay.ID()).To(Equal("2026-11-fix"))
		Expect(stored(ctx, "fix").ID()).To(Equal("fix"))
	})

	It("can be cancelled and abandoned", func(ctx SpecContext) {
		replay := stored(ctx, "states")
		for _, state := range []v1alpha1.ReplayState{v1alpha1.ReplayCancelled, v1alpha1.ReplayAbandoned} {
			replay.Spec.DesiredState = state
			Expect(apiClient.Update(ctx, replay)).To(Succeed())
		}
	})

	DescribeTable("refuses a change", func(ctx SpecContext, edit func(*v1alpha1.ReplaySpec)) {
		replay := stored(ctx, "immutable")
		edit(&replay.Spec)
		Expect(apiClient.Update(ctx, replay)).To(MatchError(And(
			ContainSubstring("spec: Invalid value"), ContainSubstring(rules.ReplayImmutable))))
	},
		Entry("of the processor", func(spec *v1alpha1.ReplaySpec) { spec.ProcessorName = "orders" }),
		Entry("of the groups", func(spec *v1alpha1.ReplaySpec) { spec.Groups = append(spec.Groups, "other") }),
		Entry("of the context", func(spec *v1alpha1.ReplaySpec) { spec.Context["why"] = "other" }),
		Entry("that removes the context", func(spec *v1alpha1.ReplaySpec) { spec.Context = nil }),
	)

	It("that a spec declares keeps what it is under its id", func(ctx SpecContext) {
		processor := newProcessor()
		processor.Spec.Replay = &v1alpha1.ReplayDeclaration{ID: "fix", Groups: []string{"views"}}
		Expect(apiClient.Create(ctx, processor)).To(MatchError(ContainSubstring(rules.ReplayGroups)))
		processor.Spec.Replay.Groups = []string{"view"}
		Expect(apiClient.Create(ctx, processor)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(apiClient.Delete(ctx, processor)).To(Succeed()) })
		Expect(processor.Spec.Replay.From.Type).To(Equal(v1alpha1.ReplayFromEarliest))
		edited := processor.DeepCopy()
		edited.Spec.Replay.Context = map[string]v1alpha1.ContextValue{"why": "other"}
		Expect(apiClient.Update(ctx, edited)).To(MatchError(ContainSubstring(rules.ReplayDeclared)))
		edited = processor.DeepCopy()
		edited.Spec.Replay.ID, edited.Spec.Replay.From.Type = "other", v1alpha1.ReplayFromLatest
		Expect(apiClient.Update(ctx, edited)).To(Succeed())
		edited.Spec.Replay.ID, edited.Spec.Replay.From.Type = "third", v1alpha1.ReplayFromPosition
		Expect(apiClient.Update(ctx, edited)).To(MatchError(ContainSubstring(rules.PlaceUnion)))
	})

	It("has a status subresource", func(ctx SpecContext) {
		replay := stored(ctx, "status")
		replay.Status.Progress = ptr.To[int32](45)
		Expect(apiClient.Update(ctx, replay)).To(Succeed())
		Expect(replay.Status.Progress).To(BeNil())
		replay.Status.Progress = ptr.To[int32](45)
		Expect(apiClient.Status().Update(ctx, replay)).To(Succeed())
		Expect(replay.Status.Progress).To(Equal(ptr.To[int32](45)))
	})
})
