package definition

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// StoreURL is a connection to PostgreSQL as a URL gives it, to a store or to a source. Settings that
// make a client open files, such as sslkey and passfile, are refused, and PG* environment variables
// have no effect: whoever writes the URL must not reach what the reader of the URL may. A setting
// either has an effect or is refused.
type StoreURL struct {
	// Host is a name, an address, or the folder of a Unix socket, which then begins with a slash.
	Host     string
	Port     uint16
	Database string
	User     string
	// Password may be empty, where the server accepts another proof.
	Password string
	// SSLMode is disable, allow, prefer, require, verify-ca or verify-full, in libpq's meaning.
	SSLMode string
	// ConnectTimeout is 0 where the URL has none.
	ConnectTimeout time.Duration
	// TargetSessionAttrs is any, read-write or primary.
	TargetSessionAttrs string
	// ChannelBinding is disable, prefer or require.
	ChannelBinding string
}

// String leaves out the password.
func (u StoreURL) String() string {
	address := net.JoinHostPort(u.Host, strconv.Itoa(int(u.Port)))
	return fmt.Sprintf("postgres://%s@%s/%s?sslmode=%s", url.PathEscape(u.User), address,
		url.PathEscape(u.Database), u.SSLMode)
}

// GoString leaves out the password, too.
func (u StoreURL) GoString() string { return u.String() }

// settings are those of libpq's that a URL may have, and how each is read.
var settings = map[string]func(*StoreURL, string) error{
	"host":     func(u *StoreURL, value string) error { return u.setHost(value) },
	"port":     func(u *StoreURL, value string) error { return u.setPort(value) },
	"dbname":   func(u *StoreURL, value string) error { return once(&u.Database, value) },
	"database": func(u *StoreURL, value string) error { return once(&u.Database, value) },
	"user":     func(u *StoreURL, value string) error { return once(&u.User, value) },
	"password": func(u *StoreURL, value string) error { return once(&u.Password, value) },
	"sslmode": func(u *StoreURL, value string) error {
		return choose(&u.SSLMode, value, "disable", "allow", "prefer", "require", "verify-ca", "verify-full")
	},
	"connect_timeout": func(u *StoreURL, value string) error { return u.setConnectTimeout(value) },
	"target_session_attrs": func(u *StoreURL, value string) error { // tokens are written, so never a standby
		return choose(&u.TargetSessionAttrs, value, "any", "read-write", "primary")
	},
	"channel_binding": func(u *StoreURL, value string) error {
		return choose(&u.ChannelBinding, value, "disable", "prefer", "require")
	},
}

// instead says how to achieve the purpose of a setting that is refused; {{use}} is what the URL is
// for. For settings in refusedByName the only advice is to remove them.
var instead = map[string]string{
	"application_name":          "Sluice names its connections itself, so that those of a worker that has ended can be found; remove it",
	"fallback_application_name": "Sluice names its connections itself, so that those of a worker that has ended can be found; remove it",
	"sslrootcert":               "name the authorities in {{use}}.postgres.tls.caSecretRef",
	"sslcert":                   "name the certificate in {{use}}.postgres.tls.certificateSecretRef",
	"sslkey":                    "name the certificate in {{use}}.postgres.tls.certificateSecretRef",
	"sslpassword":               "name a certificate whose key is not encrypted in {{use}}.postgres.tls.certificateSecretRef",
	"ssl":                       "write sslmode",
	"requiressl":                "write sslmode",
	"passfile":                  "put the password into the URL",
	"hostaddr":                  "write the address as the host",
	"search_path":               "set it for the role, by ALTER ROLE … SET search_path; {{use}}.postgres.schema is that of Sluice's own tables",
	"schema":                    "{{use}}.postgres.schema is that of Sluice's own tables; remove it",
	"currentSchema":             "{{use}}.postgres.schema is that of Sluice's own tables; remove it",
	"service":                   "write host, port and database into the URL",
	"servicefile":               "write host, port and database into the URL",
	"options":                   "Sluice sets the session's settings itself; remove it",
	"load_balance_hosts":        "only one host is allowed; remove it",
}

// refusedByName are the other settings of libpq and pgx, and common ones of servers and other
// clients. An error names a setting only if it is in one of these lists: any other name may be a
// part of a password.
var refusedByName = []string{
	// of libpq
	"client_encoding", "gssdelegation", "gssencmode", "gsslib", "keepalives", "keepalives_count", "keepalives_idle",
	"keepalives_interval", "krbspn", "krbsrvname", "max_protocol_version", "min_protocol_version", "oauth_client_id",
	"oauth_client_secret", "oauth_issuer", "oauth_scope", "replication", "require_auth", "requirepeer", "scram_client_key",
	"scram_server_key", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcertmode", "sslcompression", "sslcrl",
	"sslcrldir", "sslkeylogfile", "sslnegotiation", "sslsni", "tcp_user_timeout",
	// of pgx
	"default_query_exec_mode", "description_cache_capacity", "pool_health_check_period", "pool_max_conn_idle_time",
	"pool_max_conn_lifetime", "pool_max_conn_lifetime_jitter", "pool_max_conns", "pool_min_conns", "pool_min_idle_conns",
	"pool_ping_timeout", "statement_cache_capacity",
	// of servers and other clients
	"connection_limit", "idle_in_transaction_session_timeout", "lock_timeout", "pgbouncer", "prepareThreshold", "sslaccept",
	"statement_timeout", "timezone", "TimeZone",
}

// DatabaseUse is what a processor uses a database for. Errors name it.
type DatabaseUse string

// What databases are used for.
const (
	UseStore  DatabaseUse = "store"
	UseSource DatabaseUse = "source"
)

// Field is that of a spec which says how the database is reached.
func (u DatabaseUse) Field() string { return "spec." + string(u) + ".postgres" }

// ParseStoreURL is ParseURL for a store.
func ParseStoreURL(text string) (StoreURL, error) { return ParseURL(UseStore, text) }

// ParseURL reads postgres://user:password@host:port/database?setting=value. Host, user and
// database are required; port defaults to 5432, sslmode to prefer, target_session_attrs to any. An
// error holds nothing of the URL but names of settings that Sluice knows: any other part may be a
// password, or a piece of one whose special characters are not escaped.
func ParseURL(use DatabaseUse, text string) (StoreURL, error) {
	what := fmt.Sprintf("the %s's URL", use)
	// Of a text that is no URL, or one whose parts are not where they seem to be.
	unreadable := errors.New(what + " cannot be read: write postgres://user:password@host:port/database," +
		" with %-escapes in user and password where they have special characters")
	parsed, err := url.Parse(strings.TrimSpace(text))
	if err != nil { // url.Parse repeats the URL in its error
		return StoreURL{}, unreadable
	}
	if parsed.Scheme != "postgres" && parsed.Scheme != "postgresql" {
		return StoreURL{}, errors.New(what + " must begin with postgres://")
	}
	// A /, ? or # in the password ends the host too early. The @ that the password ends with is
	// then behind it.
	if strings.Contains(parsed.EscapedPath()+parsed.RawQuery+parsed.EscapedFragment(), "@") {
		return StoreURL{}, unreadable
	}
	storeURL := StoreURL{SSLMode: "prefer", TargetSessionAttrs: "any", ChannelBinding: "prefer"}
	if err := storeURL.setLocation(parsed); err != nil {
		return StoreURL{}, fmt.Errorf("%s: %w", what, err)
	}
	if err := storeURL.setQuery(use, parsed.RawQuery); err != nil {
		return StoreURL{}, fmt.Errorf("%s: %w", what, err)
	}
	if storeURL.Port == 0 {
		storeURL.Port = 5432
	}
	for _, part := range []struct{ name, value string }{
		{"host", storeURL.Host}, {"user", storeURL.User}, {"database", storeURL.Database}} {
		if part.value == "" {
			return StoreURL{}, fmt.Errorf("%s has no %s: write postgres://user:password@host:port/database", what, part.name)
		}
	}
	return storeURL, nil
}

func (u *StoreURL) setLocation(parsed *url.URL) error {
	if err := u.setHost(parsed.Hostname()); err != nil {
		return err
	}
	if port := parsed.Port(); port != "" {
		if err := u.setPort(port); err != nil {
			return err
		}
	}
	if parsed.User != nil {
		u.User = parsed.User.Username()
		u.Password, _ = parsed.User.Password()
	}
	u.Database = strings.TrimPrefix(parsed.Path, "/")
	if parsed.Fragment != "" {
		return errors.New("it has a part after #: write %23 for a # in user or password")
	}
	return nil
}

func (u *StoreURL) setQuery(use DatabaseUse, query string) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return errors.New("the settings after ? cannot be read: write setting=value, with & between them")
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		set, known := settings[name]
		if !known {
			return refused(use, name)
		}
		if len(values[name]) > 1 {
			return fmt.Errorf("setting %s is there twice: remove one", name)
		}
		if err := set(u, values[name][0]); err != nil {
			return fmt.Errorf("setting %s: %w", name, err)
		}
	}
	return nil
}

func refused(use DatabaseUse, name string) error {
	allowed := strings.Join(slices.Sorted(maps.Keys(settings)), ", ")
	switch advice := instead[name]; {
	case advice != "":
		return fmt.Errorf("setting %s is not allowed: %s", name, strings.ReplaceAll(advice, "{{use}}", string(use)))
	case slices.Contains(refusedByName, name):
		return fmt.Errorf("setting %s is not allowed: remove it; allowed are %s", name, allowed)
	}
	return fmt.Errorf("it has a setting that is not allowed: remove it; allowed are %s", allowed)
}

func (u *StoreURL) setHost(value string) error {
	if strings.Contains(value, ",") {
		return errors.New("only one host is allowed: name a service that leads to the primary")
	}
	return once(&u.Host, value)
}

// once sets a value that a URL may have before or after its question mark, but not in both parts.
func once(into *string, value string) error {
	if *into != "" {
		return errors.New("the URL sets it twice: remove one")
	}
	*into = value
	return nil
}

func (u *StoreURL) setPort(value string) error {
	port, err := strconv.ParseUint(value, 10, 16)
	if err != nil || port == 0 {
		return errors.New("the port must be a number from 1 to 65535")
	}
	if u.Port != 0 {
		return errors.New("the URL sets it twice: remove one")
	}
	u.Port = uint16(port)
	return nil
}

func (u *StoreURL) setConnectTimeout(value string) error {
	seconds, err := strconv.Atoi(value)
	if err != nil || seconds < 1 || seconds > 300 {
		return errors.New("it must be a number of seconds from 1 to 300")
	}
	u.ConnectTimeout = time.Duration(seconds) * time.Second
	return nil
}

func choose(into *string, value string, allowed ...string) error {
	if !slices.Contains(allowed, value) {
		return fmt.Errorf("it must be one of %s", strings.Join(allowed, ", "))
	}
	*into = value
	return nil
}
