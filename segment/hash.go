package segment

import "math/bits"

// PG1 returns the low 32 bits of what PostgreSQL computes as hashtextextended(key COLLATE "C", 0) in a UTF-8 database,
// without allocating. Keys with a NUL byte have no counterpart there.
//
// It is Bob Jenkins' lookup3 as PostgreSQL has it (src/common/hashfn.c, hash_bytes_extended with seed 0) on
// little-endian machines, bit by bit: the last word of the tail keeps its lowest byte free for the length, which is
// mixed in at the start. Servers on big-endian machines compute something else, which [Vectors] uncover.
func PG1(key string) uint32 {
	a := 0x9e3779b9 + uint32(len(key)) + 3923095
	b, c := a, a
	for len(key) >= 12 {
		a += word(key[0:4])
		b += word(key[4:8])
		c += word(key[8:12])
		a, b, c = mix(a, b, c)
		key = key[12:]
	}
	switch {
	case len(key) > 8:
		a += word(key[0:4])
		b += word(key[4:8])
		c += tail(key[8:]) << 8
	case len(key) > 4:
		a += word(key[0:4])
		b += tail(key[4:])
	default:
		a += tail(key)
	}
	return final(a, b, c)
}

func word(s string) uint32 {
	_ = s[3]
	return uint32(s[0]) | uint32(s[1])<<8 | uint32(s[2])<<16 | uint32(s[3])<<24
}

// tail returns up to four bytes as a little-endian number.
func tail(s string) (v uint32) {
	for i := len(s) - 1; i >= 0; i-- {
		v = v<<8 | uint32(s[i])
	}
	return v
}

func mix(a, b, c uint32) (uint32, uint32, uint32) {
	a = (a - c) ^ bits.RotateLeft32(c, 4)
	c += b
	b = (b - a) ^ bits.RotateLeft32(a, 6)
	a += c
	c = (c - b) ^ bits.RotateLeft32(b, 8)
	b += a
	a = (a - c) ^ bits.RotateLeft32(c, 16)
	c += b
	b = (b - a) ^ bits.RotateLeft32(a, 19)
	a += c
	c = (c - b) ^ bits.RotateLeft32(b, 4)
	b += a
	return a, b, c
}

func final(a, b, c uint32) uint32 {
	c = (c ^ b) - bits.RotateLeft32(b, 14)
	a = (a ^ c) - bits.RotateLeft32(c, 11)
	b = (b ^ a) - bits.RotateLeft32(a, 25)
	c = (c ^ b) - bits.RotateLeft32(b, 16)
	a = (a ^ c) - bits.RotateLeft32(c, 4)
	b = (b ^ a) - bits.RotateLeft32(a, 14)
	return (c ^ b) - bits.RotateLeft32(b, 24)
}

// Java returns String.hashCode of Java: over UTF-16 code units, so that a character outside the basic plane counts as
// its two surrogates. Each byte that is not UTF-8 counts as U+FFFD.
func Java(key string) uint32 {
	var h uint32
	for _, r := range key {
		if r >= 0x10000 {
			r -= 0x10000
			h = 31*h + 0xd800 + uint32(r>>10)
			r = 0xdc00 + r&0x3ff
		}
		h = 31*h + uint32(r)
	}
	return h
}
