package definition_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sluice-project/sluice/definition"
)

func TestParseStoreURL(t *testing.T) {
	t.Setenv("PGHOST", "elsewhere")
	t.Setenv("PGSSLKEY", "/etc/shadow")
	t.Setenv("PGAPPNAME", "other")
	plain := definition.StoreURL{Host: "db", Port: 5432, Database: "app", User: "me", SSLMode: "prefer", TargetSessionAttrs: "any", ChannelBinding: "prefer"}
	with := func(edit func(*definition.StoreURL)) definition.StoreURL { u := plain; edit(&u); return u }
	for text, want := range map[string]definition.StoreURL{
		"postgres://me@db/app":                 plain,
		" postgresql://me@db:5432/app\n":       plain,
		"postgres://db/app?user=me":            plain,
		"postgres:///app?host=db&user=me":      plain,
		"postgres://me@db?dbname=app":          plain,
		"postgres://me@db:6543/app":            with(func(u *definition.StoreURL) { u.Port = 6543 }),
		"postgres://me@[::1]/app":              with(func(u *definition.StoreURL) { u.Host = "::1" }),
		"postgres:///app?host=/run/pg&user=me": with(func(u *definition.StoreURL) { u.Host = "/run/pg" }),
		"postgres://m%40e:p%2Fw%3F@db/a%20b": with(func(u *definition.StoreURL) {
			u.User, u.Password, u.Database = "m@e", "p/w?", "a b"
		}),
		"postgres://me@db/app?sslmode=verify-full&connect_timeout=7&target_session_attrs=read-write&channel_binding=require": with(
			func(u *definition.StoreURL) {
				u.SSLMode, u.ConnectTimeout, u.TargetSessionAttrs, u.ChannelBinding = "verify-full", 7*time.Second, "read-write", "require"
			}),
	} {
		t.Run(text, func(t *testing.T) {
			got, err := definition.ParseStoreURL(text)
			if err != nil {
				t.Fatal(err)
			}
			// The password is left out of the printed form, so compare the fields.
			if got.Password != want.Password || !cmp.Equal(want, got) {
				t.Errorf("want %+v, got %+v", want, got)
			}
		})
	}
}

const unreadable = "the store's URL cannot be read: write postgres://user:password@host:port/database, with %-escapes in user and password where they have special characters"

// TestNoErrorHoldsAPieceOfThePassword writes passwords into URLs as they are, without escapes.
func TestNoErrorHoldsAPieceOfThePassword(t *testing.T) {
	pieces := []string{"s3cret", "20241231", "1", "?", "/", "#", "@", ":", "&", "=", "%", "%2", "%zz", "[", "]", ",", " ", "\n", "\\", "sslmode", "port", "host", "é"}
	rapid.Check(t, func(t *rapid.T) {
		password := strings.Join(rapid.SliceOfN(rapid.SampledFrom(pieces), 0, 8).Draw(t, "password"), "")
		text := fmt.Sprintf(rapid.SampledFrom([]string{"postgres://app:%s@db:5432/shop", "postgres://app:%s@/shop?host=db", "postgres://%s@db", "app:%s@db/shop", "%s",
			"postgres://app@db/shop?password=%s", "postgres://app@db?password=%s&sslmode=disable", "postgres://app@db/shop?sslmode=%s"}).Draw(t, "form"), password)
		storeURL, err := definition.ParseStoreURL(text)
		said := fmt.Sprint(err)
		if err == nil {
			if !strings.HasPrefix(text, "postgres://app:") {
				return // it may have another host and user, which are shown
			}
			if said = storeURL.String(); storeURL.Password == "" && password != "" {
				t.Fatalf("%q: the password was taken for something else: %s", text, said)
			}
		}
		for _, piece := range []string{"s3cret", "20241231", "%zz", "é"} {
			if strings.Contains(said, piece) {
				t.Fatalf("%q: %s", text, said)
			}
		}
	})
}

func TestErrorsOfASourcesURLNameTheSource(t *testing.T) {
	for text, want := range map[string]string{
		"mysql://me@db/app":                   "the source's URL must begin with postgres://",
		"postgres://me:secret@db":             "the source's URL has no database",
		"postgres://app:1#secret@db/shop":     "the source's URL cannot be read",
		"postgres://me@db/app?sslmode=maybe":  "the source's URL: setting sslmode: it must be one of disable",
		"postgres://me@db/app?sslkey=x":       "setting sslkey is not allowed: name the certificate in source.postgres.tls.certificateSecretRef",
		"postgres://me@db/app?schema=x":       "source.postgres.schema is that of Sluice's own tables",
		"postgres://me@db/app?search_path=x":  "source.postgres.schema is that of Sluice's own tables",
		"postgres://me:secret@db:port/app":    "the source's URL cannot be read",
		"postgres://me@db:0/app":              "the source's URL: the port must be a number",
		"postgres://me@db/app?sslrootcert=ca": "the authorities in source.postgres.tls.caSecretRef",
	} {
		_, err := definition.ParseURL(definition.UseSource, text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "store") {
			t.Errorf("%s: got error %v, want one with %q", text, err, want)
		}
	}
	if _, err := definition.ParseURL(definition.UseSource, "postgres://me@db/app"); err != nil {
		t.Error(err)
	}
}

func TestParseStoreURLRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"":                                                     `must begin with postgres://`,
		"mysql://me@db/app":                                    "must begin with postgres://",
		"host=db user=me password=secret":                      "must begin with postgres://",
		"postgres://me:secret@db:port/app":                     "cannot be read",
		"postgres://me:secret@a:5432,b:5432/app":               "only one host",
		"postgres://me:secret@a,b/app":                         "only one host",
		"postgres://me:secret@db":                              "has no database",
		"postgres://db/app":                                    "has no user",
		"postgres://me@/app":                                   "has no host",
		"postgres://me:secret@db:0/app":                        "the port must be a number",
		"postgres://me:secret#1@db/app":                        "cannot be read",
		"postgres://me@db/app#x":                               "write %23",
		"postgres://me@db/app?sslkey=/etc/shadow":              "setting sslkey is not allowed: name the certificate in store.postgres.tls.certificateSecretRef",
		"postgres://me@db/app?sslcert=/etc/shadow":             "setting sslcert is not allowed",
		"postgres://me@db/app?sslrootcert=/etc/shadow":         "setting sslrootcert is not allowed: name the authorities in store.postgres.tls.caSecretRef",
		"postgres://me@db/app?passfile=/etc/shadow":            "setting passfile is not allowed",
		"postgres://me@db/app?servicefile=/etc/shadow":         "setting servicefile is not allowed",
		"postgres://me@db/app?options=-csearch_path%3Dpublic":  "setting options is not allowed",
		"postgres://me@db/app?sslpassword=secret":              "setting sslpassword is not allowed: name a certificate",
		"postgres://me@db/app?application_name=secret":         "setting application_name is not allowed: Sluice names its connections itself",
		"postgres://me@db/app?require_auth=secret":             "setting require_auth is not allowed: remove it; allowed are channel_binding,",
		"postgres://me@db/app?pool_max_conns=secret":           "setting pool_max_conns is not allowed: remove it",
		"postgres://me@db/app?unheardof=secret":                "it has a setting that is not allowed: remove it; allowed are channel_binding,",
		"postgres://me@db/app?channel_binding=secret":          "setting channel_binding: it must be one of disable, prefer, require",
		"postgres://me@db/app?host=other":                      "setting host: the URL sets it twice",
		"postgres://me@db:1/app?port=2":                        "setting port: the URL sets it twice",
		"postgres://me@db/app?user=secret":                     "setting user: the URL sets it twice",
		"postgres://me:secret@db/app?password=shadow":          "setting password: the URL sets it twice",
		"postgres://me@db/app?dbname=secret":                   "setting dbname: the URL sets it twice",
		"postgres://me@db?dbname=app&database=secret":          "setting dbname: the URL sets it twice",
		"postgres://me@db/app?sslmode=maybe":                   "setting sslmode: it must be one of disable, allow",
		"postgres://me@db/app?sslmode=disable&sslmode=require": "setting sslmode is there twice",
		"postgres://me@db/app?connect_timeout=0":               "setting connect_timeout: it must be a number of seconds",
		"postgres://me@db/app?target_session_attrs=standby":    "setting target_session_attrs",
		"postgres://me@db/app?host=a,b":                        "setting host: only one host",
		"postgres://me@db/app?a=%zz":                           "settings after ? cannot be read",
		"postgres://app:2024?secret@db:5432/shop":              unreadable,
		"postgres://app:?secret@db:5432/shop":                  unreadable,
		"postgres://app:20241231/secret@db:5432/shop":          unreadable,
		"postgres://app:20241231#secret@db:5432/shop":          unreadable,
		"postgres://app:/secret@db:5432/shop":                  unreadable,
		"postgres://app:1#secret@db/shop":                      unreadable,
		"postgres://app:x@1/secret@db/shop":                    unreadable,
		"postgres://app:1?user=secret@db/shop":                 unreadable,
		"postgres://app@1?password=secret@db/shop":             unreadable,
		"postgres://app:20%secret@db/shop":                     unreadable,
		"postgres:app:secret@db/shop":                          "has no",
		"secret://app@db/shop":                                 "must begin with postgres://",
		"secret:pw@db":                                         "must begin with postgres://",
		"postgres://app@db:99999999/shop":                      "the port must be a number from 1 to 65535",
		"postgres://app@db/shop?password=a&secret=1":           "it has a setting that is not allowed",
		"postgres://app@db/shop?password=a&sslmode=secret":     "setting sslmode: it must be one of",
	} {
		t.Run(text, func(t *testing.T) {
			_, err := definition.ParseStoreURL(text)
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("got error %v, want one with %q", err, want)
			}
			if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "shadow") {
				t.Errorf("the error holds a value: %v", err)
			}
		})
	}
}

func TestStoreURLIsPrintedWithoutPassword(t *testing.T) {
	storeURL, err := definition.ParseStoreURL("postgres://me:secret@db/app")
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{storeURL.String(), fmt.Sprintf("%v %+v %#v %s", storeURL, storeURL, storeURL, &storeURL)} {
		if strings.Contains(text, "secret") || !strings.Contains(text, "postgres://me@db:5432/app?sslmode=prefer") {
			t.Errorf("got %s", text)
		}
	}
}
