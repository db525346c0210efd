// Package sluice is what programs import that run Go handlers in Sluice: event processors for Kubernetes.
package sluice
