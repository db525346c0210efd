package postgres

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/sluice-project/sluice/api/v1alpha1"
	"github.com/sluice-project/sluice/controllers/stores/backend"
	"github.com/sluice-project/sluice/tokenstore/postgres"
	"github.com/sluice-project/sluice/tokenstore/postgres/connection"
)

// Diagnose implements backend.Backend.
func (Backend) Diagnose(err error, place string) (backend.Diagnosis, bool) {
	var (
		missing   *connection.SecretNotFoundError
		invalid   *connection.InvalidError
		migration *postgres.MigrationRequiredError
		refused   *RefusedAddressError
		server    *pgconn.PgError
	)
	switch {
	case errors.As(err, &missing):
		return backend.Diagnosis{Reason: v1alpha1.ReasonSecretNotFound, Message: missing.Error(), Secrets: true}, true
	case errors.As(err, &invalid):
		return backend.Diagnosis{Reason: v1alpha1.ReasonInvalidURL, Message: invalid.Error(), Secrets: true}, true
	case errors.As(err, &migration):
		return backend.Diagnosis{Reason: v1alpha1.ReasonMigrationRequired, Message: migration.Error(), NoTables: migration.Have == 0}, true
	case errors.As(err, &refused):
		return backend.Diagnosis{Reason: v1alpha1.ReasonOperatorCannotConnect, Message: refused.Error()}, true
	case errors.As(err, &server):
		return backend.Diagnosis{Reason: reasonOf(server.Code), Message: fmt.Sprintf("%s: %s (SQLSTATE %s)", place, server.Message, server.Code)}, true
	}
	return backend.Diagnosis{}, false
}

func reasonOf(code string) string {
	switch {
	case strings.HasPrefix(code, "28"):
		return v1alpha1.ReasonAuthenticationFailed
	case code == pgerrcode.InvalidCatalogName:
		return v1alpha1.ReasonDatabaseNotFound
	case code == pgerrcode.InsufficientPrivilege:
		return v1alpha1.ReasonPermissionDenied
	}
	return v1alpha1.ReasonConnectionFailed
}

// Contention implements backend.Backend.
func (Backend) Contention(err error) bool {
	var server *pgconn.PgError
	return errors.As(err, &server) && (strings.HasPrefix(server.Code, "40") || server.Code == pgerrcode.LockNotAvailable)
}
