package desired

import (
	"cmp"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/sluice-project/sluice/definition"
)

// Volumes of the worker and where they are.
const (
	definitionVolume = "sluice-definition"
	definitionFolder = "/etc/sluice/definition"
	secretsVolume    = "sluice-secrets"
	secretsFolder    = "/etc/sluice/secrets"
	scratchVolume    = "sluice-tmp"
	scratchFolder    = "/tmp"
)

// addVolumes adds the definition, the Secrets of store and source, and a scratch folder, which a read-only root file system lacks.
func addVolumes(pod *corev1.PodSpec, p Processor) {
	ours := []corev1.Volume{
		{Name: definitionVolume, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: p.ConfigMapName()}}}},
		{Name: secretsVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: secretSources(p.Spec)}}},
		{Name: scratchVolume, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
	}
	pod.Volumes = override(pod.Volumes, ours, func(v corev1.Volume) string { return v.Name })
}

// secretSources are the Secrets of store and source as files <secret>/<key>. They are optional: one that is missing is a condition
// of the processor, not a pod that does not start, and when it comes it needs no restart.
func secretSources(spec definition.Spec) []corev1.VolumeProjection {
	keys := spec.SecretKeys()
	slices.SortFunc(keys, func(a, b definition.SecretKey) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Key, b.Key))
	})
	var sources []corev1.VolumeProjection
	for _, key := range keys {
		item := corev1.KeyToPath{Key: key.Key, Path: key.Name + "/" + key.Key}
		if last := len(sources) - 1; last >= 0 && sources[last].Secret.Name == key.Name {
			sources[last].Secret.Items = append(sources[last].Secret.Items, item)
			continue
		}
		sources = append(sources, corev1.VolumeProjection{Secret: &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: key.Name},
			Items:                []corev1.KeyToPath{item},
			Optional:             ptr.To(true),
		}})
	}
	return sources
}

func addMounts(worker *corev1.Container) {
	ours := []corev1.VolumeMount{
		{Name: definitionVolume, MountPath: definitionFolder, ReadOnly: true},
		{Name: secretsVolume, MountPath: secretsFolder, ReadOnly: true},
	}
	if !slices.ContainsFunc(worker.VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == scratchFolder }) {
		ours = append(ours, corev1.VolumeMount{Name: scratchVolume, MountPath: scratchFolder})
	}
	worker.VolumeMounts = override(worker.VolumeMounts, ours, func(m corev1.VolumeMount) string { return m.MountPath })
}
