package segment

// Vector is a key with the value that [PG1] and the server must agree on.
type Vector struct {
	Key  string
	Hash uint32
}

// Vectors returns the keys that a runtime compares with its server when it connects. They cover each way through the
// hash function: the empty key, tails of one, two and three words, whole blocks, and characters outside ASCII.
func Vectors() [8]Vector { return vectors }

// The values come from PostgreSQL 15 (UTF8, x86-64):
//
//	SELECT hashtextextended(key COLLATE "C", 0) & 4294967295
var vectors = [8]Vector{
	{"", 2817148525},
	{"a", 1075015857},
	{"order-1", 2497279691},
	{"customer-42", 1216393712},
	{"payment-4711", 3159483741},
	{"order-1234567", 244968896},
	{"Ærøskøbing 😀", 3437756117},
	{"f47ac10b-58cc-4372-a567-0e02b2c3d479", 3314231446},
}
