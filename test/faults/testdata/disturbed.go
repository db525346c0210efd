// Added to package time where the fault tests build a program whose clock is disturbed; see disturbed_test.go.

package time

import "syscall"

// disturbance is what SLUICE_TEST_CLOCK asks for, name=value:
//
//	skew=-3h    the wall clock is off
//	jump=2h     the wall clock jumps ahead, back and to the truth, once a second
//	freeze=3s   all clocks stand still once the process is that old
//	drift=50    all clocks run at so many percent of the true speed
//	leap=1m     all clocks leap ahead by so much every three seconds
//
// Timers are not readings of a clock: they fire when they would.
var disturbance = readDisturbance()

type disturbed struct {
	mode            string
	by              int64 // nanoseconds, or percent
	startWall, mono int64 // true readings at the start, in nanoseconds
}

const leapEvery = 3 * Second

func readDisturbance() disturbed {
	text, _ := syscall.Getenv("SLUICE_TEST_CLOCK")
	if text == "" {
		return disturbed{}
	}
	sec, nsec, mono := runtimeNow()
	d := disturbed{startWall: sec*1e9 + int64(nsec), mono: mono}
	for i := range text {
		if text[i] != '=' {
			continue
		}
		d.mode = text[:i]
		if d.mode == "drift" {
			percent, err := atoi(text[i+1:])
			if err != nil || percent < 1 {
				panic("SLUICE_TEST_CLOCK=" + text + ": want a percentage")
			}
			d.by = int64(percent)
			return d
		}
		by, err := ParseDuration(text[i+1:])
		if err != nil {
			panic("SLUICE_TEST_CLOCK=" + text + ": want a duration")
		}
		d.by = int64(by)
	}
	switch d.mode {
	case "skew", "jump", "freeze", "leap":
		return d
	}
	panic("SLUICE_TEST_CLOCK=" + text + ": not known")
}

// elapsed is how much time has passed since the start, by the disturbed clock.
func (d *disturbed) elapsed(mono int64) int64 {
	passed := mono - d.mono
	switch d.mode {
	case "freeze":
		return min(passed, d.by)
	case "drift":
		return passed * d.by / 100
	case "leap":
		return passed + passed/int64(leapEvery)*d.by
	}
	return passed
}

// off is what the wall clock is wrong by, beyond that.
func (d *disturbed) off(mono int64) int64 {
	switch d.mode {
	case "skew":
		return d.by
	case "jump":
		return d.by * (1 - (mono-d.mono)/1e9%3) // by, 0, -by
	}
	return 0
}

func disturbedNow() (sec int64, nsec int32, mono int64) {
	sec, nsec, mono = runtimeNow()
	d := &disturbance
	if d.mode == "" || mono == 0 {
		return sec, nsec, mono
	}
	elapsed := d.elapsed(mono)
	wall := d.startWall + elapsed + d.off(mono)
	return wall / 1e9, int32(wall % 1e9), d.mono + elapsed
}

func disturbedNano() int64 {
	mono := runtimeNano()
	d := &disturbance
	if d.mode == "" {
		return mono
	}
	return d.mono + d.elapsed(mono)
}
