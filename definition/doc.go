// Package definition is what an EventProcessor means to the programs that run it, in plain Go without Kubernetes: the
// spec as it is written, the definition (what decides how handlers behave) and the live settings (what takes effect
// without a restart).
//
// What always holds:
//   - A spec that Validate accepts the API server accepts too, but for the pod template, of which only Sluice's own
//     rules are checked here; and what both refuse they refuse with the same text.
//   - Specs that differ only in live fields have the same Definition.ID; specs that mean the same have it too.
//
// The worker, sluice dev and the operator share this package, so it imports nothing of Kubernetes.
package definition
