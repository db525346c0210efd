package apiserver

import (
	"encoding/json"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/api/rules"
	"github.com/sluice-project/sluice/api/v1alpha1"
	applyv1alpha1 "github.com/sluice-project/sluice/api/v1alpha1/applyconfiguration/api/v1alpha1"
)

// newProcessor has what is required and nothing else.
func newProcessor() *v1alpha1.EventProcessor {
	return &v1alpha1.EventProcessor{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "payments-", Namespace: "default"},
		Spec: v1alpha1.EventProcessorSpec{
			Store: v1alpha1.Store{Type: v1alpha1.StoreTypePostgres, Postgres: &v1alpha1.PostgresStore{
				URLSecretRef: &v1alpha1.URLSecretReference{Name: "payments-db"}}},
			ProcessingGroups: []v1alpha1.ProcessingGroup{{
				Name:    "view",
				Handler: v1alpha1.Handler{Type: v1alpha1.HandlerTypeGo},
			}},
		},
	}
}

func eventsDatabase() *v1alpha1.PostgresSource {
	return &v1alpha1.PostgresSource{URLSecretRef: &v1alpha1.URLSecretReference{Name: "events"}}
}

func created(ctx SpecContext) *v1alpha1.EventProcessor {
	processor := newProcessor()
	Expect(apiClient.Create(ctx, processor)).To(Succeed())
	DeferCleanup(func(ctx SpecContext) { Expect(apiClient.Delete(ctx, processor)).To(Succeed()) })
	return processor
}

var _ = Describe("An EventProcessor", func() {
	It("gets its defaults", func(ctx SpecContext) {
		want := newProcessor().Spec
		want.DesiredState = v1alpha1.DesiredStateRunning
		want.Replicas = ptr.To[int32](1)
		want.DeletionPolicy = v1alpha1.DeletionPolicyRetain
		want.Lease = &metav1.Duration{Duration: 5 * time.Second}
		want.ErrorDetails = v1alpha1.ErrorDetailsHidden
		want.Store.Postgres.URLSecretRef.Key = "uri"
		want.Store.Postgres.Schema = "sluice"
		want.Store.Postgres.Migrations = v1alpha1.MigrationsAuto
		want.Source.Type = v1alpha1.SourceTypeStore
		group := &want.ProcessingGroups[0]
		group.Segments = 16
		group.Sequencing = v1alpha1.Sequencing{Type: v1alpha1.SequencingStream, Hash: v1alpha1.SequenceHashDefault}
		group.InitialPosition.Type = v1alpha1.InitialPositionEarliest
		group.MaxBatchSize = 5000
		group.Timeout = &metav1.Duration{Duration: time.Minute}
		group.DesiredState = v1alpha1.DesiredStateRunning
		group.Handler.Rows = v1alpha1.RowsShared
		group.OnError = v1alpha1.OnError{
			MaxAttempts: 5,
			Backoff: v1alpha1.Backoff{
				Initial: &metav1.Duration{Duration: time.Second},
				Max:     &metav1.Duration{Duration: time.Minute},
			},
			Then: v1alpha1.OnErrorBlock,
		}

		Expect(created(ctx).Spec).To(Equal(want))
	})

	It("keeps labels, annotations and fields of its pod template", func(ctx SpecContext) {
		want := &corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{
				Labels:      map[string]string{"team": "payments"},
				Annotations: map[string]string{"example.com/scrape": "true"},
			},
			Spec: corev1.PodSpec{
				NodeSelector: map[string]string{"zone": "a"},
				Containers:   []corev1.Container{{Name: "worker", Image: "example/payments:1", Args: []string{"a"}}},
			},
		}
		processor := newProcessor()
		processor.Spec.Template = want.DeepCopy()
		Expect(apiClient.Create(ctx, processor, client.DryRunAll)).To(Succeed())
		Expect(processor.Spec.Template).To(Equal(want))
	})

	It("may have a template that leaves the container to the operator", func(ctx SpecContext) {
		processor := newProcessor()
		processor.Spec.Template = &corev1.PodTemplateSpec{Spec: corev1.PodSpec{ServiceAccountName: "payments"}}
		Expect(apiClient.Create(ctx, processor, client.DryRunAll)).To(Succeed())
		Expect(processor.Spec.Template.Spec.ServiceAccountName).To(Equal("payments"))
	})

	DescribeTable("refuses a change", func(ctx SpecContext, edit func(*v1alpha1.EventProcessorSpec), field, text string) {
		processor := created(ctx)
		edit(&processor.Spec)
		err := apiClient.Update(ctx, processor)
		Expect(err).To(MatchError(And(ContainSubstring(field), ContainSubstring(text))))
	},
		Entry("of the schema",
			func(spec *v1alpha1.EventProcessorSpec) { spec.Store.Postgres.Schema = "other" },
			"spec.store.postgres.schema", rules.SchemaImmutable),
		Entry("of an initial position",
			func(spec *v1alpha1.EventProcessorSpec) {
				spec.ProcessingGroups[0].InitialPosition.Type = v1alpha1.InitialPositionLatest
			},
			"spec.processingGroups[0].initialPosition", rules.InitialPositionImmutable),
		Entry("of the initial position of a group that moved within the list",
			func(spec *v1alpha1.EventProcessorSpec) {
				moved := *spec.ProcessingGroups[0].DeepCopy()
				moved.InitialPosition.Type = v1alpha1.InitialPositionLatest
				other := moved
				other.Name = "other"
				spec.ProcessingGroups = []v1alpha1.ProcessingGroup{other, moved}
			},
			"spec.processingGroups[1].initialPosition", rules.InitialPositionImmutable),
		Entry("that adds a database of the source's own",
			func(spec *v1alpha1.EventProcessorSpec) { spec.Source.Postgres = eventsDatabase() },
			"spec.source", rules.SourcePostgresKept),
	)

	It("keeps the database of its source, and may reach it in another way", func(ctx SpecContext) {
		processor := newProcessor()
		processor.Spec.Source = v1alpha1.Source{Type: v1alpha1.SourceTypeStore, Postgres: eventsDatabase()}
		Expect(apiClient.Create(ctx, processor)).To(Succeed())
		DeferCleanup(func(ctx SpecContext) { Expect(apiClient.Delete(ctx, processor)).To(Succeed()) })
		Expect(processor.Spec.Source.Postgres.Schema).To(Equal("sluice"))

		changed := processor.DeepCopy()
		changed.Spec.Source.Postgres = nil
		Expect(apiClient.Update(ctx, changed)).To(MatchError(And(ContainSubstring("spec.source"), ContainSubstring(rules.SourcePostgresKept))))
		changed = processor.DeepCopy()
		changed.Spec.Source.Postgres.Schema = "other"
		Expect(apiClient.Update(ctx, changed)).To(MatchError(And(ContainSubstring("spec.source.postgres.schema"), ContainSubstring(rules.SourceSchemaImmutable))))

		processor.Spec.Source.Postgres.URLSecretRef = nil
		processor.Spec.Source.Postgres.Connection = &v1alpha1.PostgresConnection{Host: "events", Database: "shop",
			UsernameSecretRef: v1alpha1.SecretKeyReference{Name: "events", Key: "user"}}
		Expect(apiClient.Update(ctx, processor)).To(Succeed())
		Expect(processor.Spec.Source.Postgres.Connection.Port).To(BeEquivalentTo(5432))
	})

	It("can be scaled by its scale subresource", func(ctx SpecContext) {
		processor := created(ctx)
		processor.Status.Replicas = 1
		processor.Status.Selector = "sluice.dev/processor=payments"
		Expect(apiClient.Status().Update(ctx, processor)).To(Succeed())

		scale := &autoscalingv1.Scale{}
		Expect(apiClient.SubResource("scale").Get(ctx, processor, scale)).To(Succeed())
		Expect(scale.Spec.Replicas).To(BeEquivalentTo(1))
		Expect(scale.Status).To(Equal(autoscalingv1.ScaleStatus{Replicas: 1, Selector: "sluice.dev/processor=payments"}))

		scale.Spec.Replicas = 0
		Expect(apiClient.SubResource("scale").Update(ctx, processor, client.WithSubResourceBody(scale))).To(Succeed())
		Expect(apiClient.Get(ctx, client.ObjectKeyFromObject(processor), processor)).To(Succeed())
		Expect(processor.Spec.Replicas).To(Equal(ptr.To[int32](0)))
	})

	It("keeps spec and status apart", func(ctx SpecContext) {
		processor := created(ctx)
		generation := processor.Generation

		processor.Status.StoreID = "from an update of the object"
		Expect(apiClient.Update(ctx, processor)).To(Succeed())
		Expect(processor.Status.StoreID).To(BeEmpty())

		processor.Spec.Replicas = ptr.To[int32](9)
		processor.Status.StoreID = "from an update of the status"
		Expect(apiClient.Status().Update(ctx, processor)).To(Succeed())
		Expect(processor.Status.StoreID).To(Equal("from an update of the status"))
		Expect(processor.Spec.Replicas).To(Equal(ptr.To[int32](1)))
		Expect(processor.Generation).To(Equal(generation))
	})

	It("has its status applied by apply configurations", func(ctx SpecContext) {
		processor := created(ctx)
		apply := applyv1alpha1.EventProcessor(processor.Name, processor.Namespace).WithStatus(
			applyv1alpha1.EventProcessorStatus().
				WithObservedGeneration(processor.Generation).
				WithLag(v1alpha1.LagUnder1s).
				WithSegments(applyv1alpha1.SegmentCounts().WithSummary("15/16").WithDesired(16).WithOwned(15).WithUnowned(1)).
				WithGroups(applyv1alpha1.GroupStatus().WithName("view").WithSegments(16).WithState(v1alpha1.GroupRunning)))
		owner := client.FieldOwner("test")
		Expect(apiClient.Status().Apply(ctx, apply, owner, client.ForceOwnership)).To(Succeed())

		Expect(apiClient.Get(ctx, client.ObjectKeyFromObject(processor), processor)).To(Succeed())
		Expect(processor.Status).To(Equal(v1alpha1.EventProcessorStatus{
			ObservedGeneration: processor.Generation,
			Lag:                v1alpha1.LagUnder1s,
			Segments:           v1alpha1.SegmentCounts{Summary: "15/16", Desired: 16, Owned: 15, Unowned: 1},
			Groups:             []v1alpha1.GroupStatus{{Name: "view", Segments: 16, State: v1alpha1.GroupRunning}},
		}))
	})

	It("is listed with its columns", func(ctx SpecContext) {
		processor := created(ctx)
		processor.Status = v1alpha1.EventProcessorStatus{
			Replicas: 3,
			Lag:      v1alpha1.LagUnder10s,
			Segments: v1alpha1.SegmentCounts{Summary: "16/16"},
			Conditions: []metav1.Condition{{Type: v1alpha1.ConditionReady, Status: metav1.ConditionTrue,
				Reason: v1alpha1.ReasonReady, LastTransitionTime: metav1.Now()}},
		}
		Expect(apiClient.Status().Update(ctx, processor)).To(Succeed())

		columns, cells := row(ctx, "eventprocessors", processor.Name)
		Expect(columns).To(Equal([]string{"Name", "Ready", "Segments", "Pods", "Lag", "Status", "Age"}))
		Expect(cells[1:6]).To(Equal([]any{"True", "16/16", 3.0, "<10s", "Ready"}))
	})
})

// row asks for one object as kubectl get does.
func row(ctx SpecContext, resource, name string) (columns []string, cells []any) {
	ours := rest.CopyConfig(config)
	ours.APIPath, ours.GroupVersion = "/apis", &v1alpha1.GroupVersion
	ours.NegotiatedSerializer = clientgoscheme.Codecs.WithoutConversion()
	restClient, err := rest.RESTClientFor(ours)
	Expect(err).NotTo(HaveOccurred())
	data, err := restClient.Get().Namespace("default").Resource(resource).Name(name).
		SetHeader("Accept", "application/json;as=Table;g=meta.k8s.io;v=v1").DoRaw(ctx)
	Expect(err).NotTo(HaveOccurred())
	var table metav1.Table
	Expect(json.Unmarshal(data, &table)).To(Succeed())
	for _, column := range table.ColumnDefinitions {
		columns = append(columns, column.Name)
	}
	return columns, table.Rows[0].Cells
}
