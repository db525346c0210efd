package postgres

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/sluice-project/sluice/tokenstore/postgres/connection"
)

// SecretsOf reads the Secrets of a namespace one by one. The reader must not be a cache: that would
// list all Secrets.
func SecretsOf(reader client.Reader) func(namespace string) connection.Secrets {
	return func(namespace string) connection.Secrets {
		return func(ctx context.Context, name, key string) ([]byte, error) {
			return secretOf(ctx, reader, namespace, name, key)
		}
	}
}

func secretOf(ctx context.Context, reader client.Reader, namespace, name, key string) ([]byte, error) {
	var secret corev1.Secret
	err := reader.Get(ctx, client.ObjectKey{Namespace: namespace, Name: name}, &secret)
	switch {
	case apierrors.IsNotFound(err):
		return nil, &connection.SecretNotFoundError{Name: name, Key: key}
	case err != nil:
		return nil, fmt.Errorf("reading Secret %s: %w", name, err)
	}
	value, there := secret.Data[key]
	if !there {
		return nil, &connection.SecretNotFoundError{Name: name, Key: key, KeyOnly: true}
	}
	return value, nil
}
