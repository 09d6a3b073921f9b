package Limiter;

# Access Limiter for Perl: at most so many requests in each window for each client, exact over all processes.
#
#     use lib '/usr/local/share/access-limiter/clients';
#     use Limiter;
#     Limiter::guard();
#
# It answers 401, 429 or 500 itself and ends the script, or prints the RateLimit header fields, which the
# script's own follow. It shares its store with the other clients of store format 1 (docs/store-format.md). It
# needs Perl 5.26 with 64 bits, and no module that Perl does not have.
#
# LIMITER_ROOT must be set. LIMITER_LIMIT, _NEWCOMERS, _APPS, _KEY, _MODE and _ON_ERROR are as in
# docs/settings.md. Any other setting that is not at its default gets a 500 that says so: nothing is ignored.
# The one exception: Perl cannot see how many inodes are free, so newcomers are refused only when a call fails.
#
# For your own purposes: Limiter::hit($root, '10/minute', $name) and Limiter::peek(...). Both return a hash:
# allowed; retry_after (seconds; 0 if allowed, 9**9**9 if never); quotas, a hash for each limit with name, quota,
# window (seconds), remaining and reset (seconds); notes for an administrator. They die with a Limiter::StoreError,
# which has a symbol (errno's name) and a path, or with a Limiter::Mistake.

use strict;
use warnings;
use Time::HiRes ();

our $VERSION = '0.1.0';

my %SYMBOLS = (
    1 => 'EPERM', 2 => 'ENOENT', 5 => 'EIO', 11 => 'EAGAIN', 12 => 'ENOMEM', 13 => 'EACCES', 16 => 'EBUSY',
    17 => 'EEXIST', 18 => 'EXDEV', 20 => 'ENOTDIR', 21 => 'EISDIR', 22 => 'EINVAL', 23 => 'ENFILE', 24 => 'EMFILE',
    28 => 'ENOSPC', 30 => 'EROFS', 31 => 'EMLINK', 36 => 'ENAMETOOLONG', 38 => 'ENOSYS', 39 => 'ENOTEMPTY',
    40 => 'ELOOP', 77 => 'EBADFD', 95 => 'EOPNOTSUPP', 107 => 'ENOTCONN', 110 => 'ETIMEDOUT', 116 => 'ESTALE',
    122 => 'EDQUOT',
);
my $SECOND = 1_000_000;
my $LONGEST = 3660 * 86400;
my ($FEW, $SEGMENT) = (16, 64);    # slots in the first directory, and in each of the others
my ($ROUNDS, $LISTINGS) = (1000, 4);

# Errors.

sub failed {
    my ($path, $why, $symbol) = @_;
    $symbol //= $SYMBOLS{ $! + 0 } // 'errno ' . ($! + 0);
    $why //= "$!";
    return bless { symbol => $symbol, why => $why, path => $path }, 'Limiter::StoreError';
}

sub mistake {
    return bless { why => $_[0] }, 'Limiter::Mistake';
}

sub Limiter::StoreError::symbol { return $_[0]{symbol} }
sub Limiter::StoreError::path { return $_[0]{path} }
sub Limiter::StoreError::message { return "[$_[0]{symbol}] $_[0]{why}: $_[0]{path}" }
sub Limiter::Mistake::message { return $_[0]{why} }

# Whether a call has succeeded. False: what it was for is gone. Dies for anything else.
sub done {
    my ($result, $path) = @_;
    return 1 if $result;
    return 0 if $! == 2 || $! == 116;
    die failed($path);
}

# The entries of a directory, sorted; none if there is no such directory.
sub entries {
    my ($path) = @_;
    return () if !done(opendir(my $directory, $path), $path);
    local $! = 0;
    my @names = sort grep { $_ ne '.' && $_ ne '..' } readdir $directory;
    die failed($path) if $!;    # it may be only a part
    closedir $directory;
    return @names;
}

sub remove_empty {
    my ($path) = @_;
    my $is_gone = eval { done(rmdir($path), $path); 1 };
    return 1 if $is_gone;
    my $error = $@;
    die $error if !ref $error || $error->symbol !~ /\A(?:EEXIST|ENOTEMPTY|EMLINK)\z/;
    return 0;
}

sub must_exist {
    my ($root) = @_;
    return if done(scalar stat("$root/."), $root);
    die failed($root, 'The store does not exist (make it, or set LIMITER_ROOT)', 'ENOENT');
}

# The arithmetic of limits. Times are microseconds since the epoch. A name is SECONDS.MICROSECONDS-NUMBER.

sub clock {
    my ($seconds, $microseconds) = Time::HiRes::gettimeofday();
    return $seconds * $SECOND + $microseconds;
}

sub stamp {
    my $digits = sprintf '%016d', $_[0];
    return substr($digits, 0, 10) . '.' . substr($digits, 10);
}

sub time_of { return 0 + (substr($_[0], 0, 10) . substr($_[0], 11, 6)) }
sub number_of { return 0 + substr $_[0], 18 }
sub name_of { my ($time, $is_provisional, $number) = @_; return stamp($time) . ($is_provisional ? '~' : '-') . $number }
sub is_name { return $_[0] =~ /\A[0-9]{10}\.[0-9]{6}[-~](?:0|[1-9][0-9]{0,17})\z/ }
sub least { my ($one, $other) = @_; return $one < $other ? $one : $other }
sub most { my ($one, $other) = @_; return $one > $other ? $one : $other }
sub later { my ($one, $other) = @_; return $one gt $other ? $one : $other }
sub up { use integer; my ($number, $by) = @_; return ($number + $by - 1) / $by }

sub directory {
    my ($limit, $segment) = @_;
    my $name = $limit->{policy} eq '' ? $limit->{name} : "$limit->{policy}=$limit->{name}";
    return $segment ? "$name.$segment" : $name;
}

# The first number of the slots of a directory, and how many there are.
sub numbers {
    my ($limit, $segment) = @_;
    return (0, 1) if $limit->{kind} ne 'sliding';
    my $first = $segment == 1 ? $FEW : $SEGMENT * most($segment - 1, 0);
    return ($first, least($segment ? $SEGMENT * $segment : $FEW, $limit->{quota}) - $first);
}

sub slot { my ($limit, $name) = @_; return $limit->{kind} eq 'sliding' ? number_of($name) : 0 }

# Of a fixed limit: the time to count at, and the hits so far in its window.
sub fixed_state {
    use integer;
    my ($limit, $name, $now) = @_;
    my $last = time_of($name);
    return ($now, 0) if $last > $now + $limit->{window};
    my $time = most($last, $now);
    return ($time, $last / $limit->{window} == $time / $limit->{window} ? number_of($name) : 0);
}

sub fixed_end { use integer; my ($limit, $time) = @_; return ($time / $limit->{window} + 1) * $limit->{window} }

# Of a burst limit: how much the bucket lacks until it is full, in units of 1/rate of a microsecond.
sub debt {
    use integer;
    my ($limit, $name, $now) = @_;
    my $ahead = time_of($name) - $now;
    return 0 if $ahead > $limit->{window} + $limit->{period} || $ahead < -1;
    return most(0, $ahead * $limit->{rate} + number_of($name));
}

# The names that a hit may claim, the hits that count, and the microseconds until the first no longer does.
sub look_at {
    use integer;
    my ($limit, $names, $now) = @_;
    my $last = $names->[-1];
    if ($limit->{kind} eq 'fixed') {
        my ($time, $used) = fixed_state($limit, $last, $now);
        return ($used < $limit->{quota} ? [$last] : [], $used, $used ? fixed_end($limit, $time) - $now : 0);
    }
    if ($limit->{kind} eq 'burst') {
        my ($debt, $period) = (debt($limit, $last, $now), $limit->{period});
        my $used = least(up($debt, $period), $limit->{quota});
        my $next = $used ? up($debt - ($used - 1) * $period, $limit->{rate}) : 0;
        return ($debt + $period <= $limit->{quota} * $period ? [$last] : [], $used, $next);
    }
    my $begin = stamp(most(1, $now - $limit->{window} + 1));
    my $end = stamp($now + $limit->{window} + 1);
    my @free = grep { $_ lt $begin || $_ ge $end } @$names;
    return (\@free, 0, 0) if @free == @$names;
    my ($first) = grep { $_ ge $begin && $_ lt $end } @$names;
    return (\@free, @$names - @free, time_of($first) + $limit->{window} - $now);
}

sub taken {
    use integer;
    my ($limit, $name, $now, $is_provisional) = @_;
    my $is_marked = substr($name, 17, 1) eq '~';
    if ($limit->{kind} eq 'fixed') {
        my ($time, $used) = fixed_state($limit, $name, $now);
        return name_of($time, $is_provisional || ($used > 0 && $is_marked), $used + 1);
    }
    if ($limit->{kind} eq 'burst') {
        my $debt = debt($limit, $name, $now);
        my $units = $debt + $limit->{period};
        my $time = $now + $units / $limit->{rate};
        return name_of($time, $is_provisional || ($debt > 0 && $is_marked), $units % $limit->{rate});
    }
    return stamp($now) . ($is_provisional ? '~' : '-') . substr $name, 18;
}

# Microseconds until a hit counted now no longer counts, if it is the only one.
sub expiry {
    my ($limit, $now) = @_;
    return fixed_end($limit, $now) - $now if $limit->{kind} eq 'fixed';
    return $limit->{kind} eq 'burst' ? up($limit->{period}, $limit->{rate}) : $limit->{window};
}

# The name that gives back a slot that was claimed and is not needed.
sub released {
    my ($limit, $old, $now) = @_;
    my $free = name_of(most(0, $now - $limit->{window} - 1), 0, slot($limit, $old));
    return later($limit->{kind} eq 'sliding' ? name_of(time_of($old) + 1, 0, number_of($old)) : $old, $free);
}

# The name that undoes a claim, on which others have built $name; undef if there is nothing to undo.
sub returned {
    use integer;
    my ($limit, $name, $claim, $now) = @_;
    my ($time, $is_marked) = (time_of($name), substr($name, 17, 1) eq '~');
    if ($limit->{kind} eq 'fixed') {
        return undef if $time / $limit->{window} != time_of($claim) / $limit->{window};
        return name_of($time, $is_marked, number_of($name) - 1);
    }
    return undef if $limit->{kind} ne 'burst' || $now >= time_of($claim);
    my ($rate, $period) = ($limit->{rate}, $limit->{period});
    my $rest = number_of($name) - $period % $rate;
    $time -= $period / $rate + ($rest < 0 ? 1 : 0);
    return name_of($time, $is_marked, $rest < 0 ? $rest + $rate : $rest);
}

# The notation of limits: docs/limits.md.

my %UNITS = (
    (map { $_ => 1 } qw(second seconds sec s)), (map { $_ => 60 } qw(minute minutes min m)),
    (map { $_ => 3600 } qw(hour hours h)), (map { $_ => 86400 } qw(day days d)),
    (map { $_ => 2592000 } qw(month months)), (map { $_ => 31104000 } qw(year years)),
);

# The limits that the text names, in its order.
sub parse {
    use integer;
    my ($text) = @_;
    my $beginning = "limit '" . substr($text, 0, 200) . "'";
    my (@limits, %given);
    for my $part (split /[;,|]/, $text eq '' ? ' ' : $text, -1) {
        my ($policy, $count, $multiple, $unit, $fixed, $burst) = $part =~ m{
            \A[ \t]*+(?:([a-z][a-z0-9-]{0,31})[ \t]*+=[ \t]*+)?([0-9]{1,15})[ \t]*+(?:/|(?i:per))[ \t]*+
            ([0-9]{1,15})?[ \t]*+([A-Za-z]++)[ \t]*+(?:((?i:fixed))|(?i:burst)[ \t]*+([0-9]{1,15}))?[ \t]*+\z
        }x or die mistake("$beginning: expected limits such as 10/second, found '$part'");
        my $seconds = $UNITS{ lc $unit } or die mistake("$beginning: expected a unit, found '$unit'");
        $multiple //= 1;
        if ($multiple < 1 || $multiple > $LONGEST / $seconds) {
            die mistake("$beginning: expected a window from 1 second to 3660 days");
        }
        my $window = $multiple * $seconds;
        die mistake("$beginning: expected a capacity of at least 1") if defined $burst && $burst == 0;
        my %limit = (
            kind => 'sliding', policy => $policy // '', quota => $count + 0, window => $window * $SECOND,
            segments => 1, name => ($count + 0) . "-per-${window}s",
        );
        if (defined $burst && $count > 0) {
            my $longest = do { no integer; $LONGEST * $count / $window };
            die mistake("$beginning: expected a bucket that fills within 3660 days") if do { no integer; $burst > $longest };
            my $period = $window * $SECOND;
            if ($period > 9223372036854775807 / (4 * ($burst + $count))) {
                die mistake("$beginning: a burst limit of these numbers is too large for Perl");
            }
            @limit{qw(kind rate period quota)} = ('burst', $count + 0, $period, $burst + 0);
            $limit{window} = up($period * $burst, $count);
            $limit{name} .= "-burst-$limit{quota}";
        } elsif (defined $fixed && $count > 0) {
            $limit{kind} = 'fixed';
            $limit{name} .= '-fixed';
        } elsif ($count <= 10000) {
            $limit{segments} = up($count, $SEGMENT) + ($count > $FEW ? 1 : 0);
        } else {
            die mistake("$beginning: expected a sliding limit of at most 10000 hits");
        }
        for my $key (directory(\%limit, 0), $limit{policy} eq '' ? () : "policy $limit{policy}") {
            die mistake("$beginning: expected a limit not yet given") if $given{$key}++;
        }
        push @limits, \%limit;
    }
    return @limits;
}

# A hit: look at all limits, then claim what it needs of each, or deny it and write nothing. An attempt has the
# root, the limits, the app, the newcomers, the notes, the denial if there is no room for a directory (refused),
# and the number and the first time of faults that may pass. A view is what one look at one limit shows.

sub attempt {
    my ($root, $limits, $app, $newcomers) = @_;
    return { root => $root, limits => $limits, app => $app, newcomers => $newcomers, notes => [], faults => 0 };
}

sub view_of {
    my ($limit) = @_;
    return { limit => $limit, order => [], listed => {}, free => [], idle => {}, now => 0, used => 0, next => 0, lost => 0 };
}

sub decide {
    my ($it) = @_;
    for my $limit (@{ $it->{limits} }) {
        return decision($it, 0, 9**9**9, [map { view_of($_) } @{ $it->{limits} }], 0, 0) if $limit->{quota} < 1;
    }
    for (1 .. $ROUNDS) {
        my $decision;
        next if !surviving($it, sub {
            my @views;
            for my $limit (@{ $it->{limits} }) {
                push @views, look($it, $limit, 1);
                return $decision = $it->{refused} if $it->{refused};
            }
            my @short = grep { !@{ $_->{free} } } @views;
            return $decision = deny($it, \@views, \@short, $views[-1]{now}) if @short;
            $decision = decision($it, 1, 0, \@views, $views[-1]{now}, 1) if claim($it, @views);
        });
        return $decision if $decision;
    }
    die failed("$it->{root}/$it->{app}", 'Other hits claimed every free slot first', 'EBUSY');
}

# Whether the function ended without a fault that may pass. After one it has waited.
sub surviving {
    my ($it, $function) = @_;
    return 1 if eval { $function->(); 1 };
    my $error = $@;
    my $now = Time::HiRes::time();
    $it->{since} //= $now;
    $it->{faults}++;
    my $may_pass = ref $error eq 'Limiter::StoreError' && $error->symbol =~ /\A(?:EBADFD|ENOTCONN)\z/;
    die $error if !$may_pass || $it->{faults} > 5 || $now - $it->{since} > 0.25;
    Time::HiRes::sleep(0.001 * 2**($it->{faults} - 1));
    return 0;
}

sub decision {
    my ($it, $is_allowed, $retry, $views, $now, $cost) = @_;
    my @quotas = map { quota($_, $now, $cost) } @$views;
    return { allowed => $is_allowed, retry_after => $retry, quotas => \@quotas, notes => $it->{notes} };
}

sub deny {
    my ($it, $views, $short, $now) = @_;
    my $end = $now + 1;
    $end = most($end, $_->{now} + $_->{next}) for @$short;
    return decision($it, 0, ($end - $now) / $SECOND, $views, $now, 0);
}

sub quota {
    my ($view, $now, $cost) = @_;
    my $limit = $view->{limit};
    my $reset = $view->{used} || !$cost ? $view->{next} : expiry($limit, $view->{now});
    my $unknown = @{ $view->{order} } ? unknown($view) : 0;
    return {
        name => $limit->{policy} eq '' ? $limit->{name} : $limit->{policy},
        quota => $limit->{quota},
        window => up($limit->{window}, $SECOND),
        remaining => most(0, $limit->{quota} - $view->{used} - $view->{lost} - $unknown - $cost),
        reset => most(0, $view->{now} + $reset - $now) / $SECOND,
    };
}

# How many hits may count in directories that were not looked at.
sub unknown {
    my ($view) = @_;
    return 0 if $view->{is_all};
    my ($oldest) = sort map { $_->[0] } values %{ $view->{listed} };
    return 0 if $oldest le stamp(most($view->{now} - 2 * $view->{limit}{window}, 0));
    my $number = 0;
    $number += (numbers($view->{limit}, $_))[1] for @{ $view->{order} } .. $view->{limit}{segments} - 1;
    return $number;
}

# Look at one more listed directory. Returns whether to look at the next.
sub add {
    my ($view, $directory, $now) = @_;
    my $limit = $view->{limit};
    my ($free, $used, $first) = look_at($limit, $view->{listed}{$directory}, $now);
    $view->{next} = $first if $used && (!$view->{used} || $first < $view->{next});
    $view->{now} = $now;
    $view->{used} += $used;
    push @{ $view->{order} }, $directory;
    if (@$free && !@{ $view->{free} }) {
        if ($used) {
            my $start = $now % @$free;    # contenders look at different moments
            $free = [@$free[$start .. $#$free], @$free[0 .. $start - 1]];
        } else {
            $view->{idle}{$directory} = 1;
            $free = [sort { slot($limit, $a) <=> slot($limit, $b) } @$free];
        }
        $view->{free} = [map { [$directory, $_] } @$free];
    }
    return !@{ $view->{free} } || ($limit->{window} >= 60 * $SECOND && unknown($view) > 0);
}

# List the segments until there is room or none is left. Missing ones are furnished, if it may.
sub look {
    my ($it, $limit, $furnishes) = @_;
    my $view = view_of($limit);
    for my $segment (0 .. $limit->{segments} - 1) {
        my $directory = "$it->{app}@" . directory($limit, $segment);
        my @found = entries("$it->{root}/$directory");
        last if !@found && (@{ $view->{free} } || !$furnishes);
        my @names = complete($it, $view, $segment, $directory, @found) or return $view;
        $view->{listed}{$directory} = \@names;
        return $view if !add($view, $directory, clock());
    }
    $view->{is_all} = 1;
    return $view if $limit->{segments} == 1 || !@{ $view->{order} };

    # The first segments may have gained room while the last were listed: look at all for one time.
    my $again = { %{ view_of($limit) }, listed => $view->{listed}, lost => $view->{lost}, is_all => 1 };
    add($again, $_, $view->{now}) for @{ $view->{order} };
    return $again;
}

# The sorted slots of a directory, one for each that it has; none: there is no room.
sub complete {
    my ($it, $view, $segment, $directory, @found) = @_;
    my $limit = $view->{limit};
    my ($first, $number) = numbers($limit, $segment);
    my $is_slot = sub {
        my ($name) = @_;
        return is_name($name) && slot($limit, $name) >= $first && slot($limit, $name) < $first + $number;
    };
    my ($listings, $now) = (0, 0);
    for (1 .. $ROUNDS) {
        my @slots = grep { $is_slot->($_) } @found;
        my %numbers = map { slot($limit, $_) => 1 } @slots;
        my @marks = grep { substr($_, 0, 6) eq '.gone-' && $is_slot->(substr $_, 6) } @found;
        if (!@found) {
            my $time = most(0, clock() - 2 * $limit->{window} - 1);
            my @names = sort map { name_of($time, 0, $_) } $first .. $first + $number - 1;
            return @names if furnish_if_there_is_room($it, $segment, $directory, @names);
            return () if $it->{refused};
        } elsif (@marks && $listings) {
            settle($it, $directory, $limit, \@slots, \@marks, $now);
        } elsif (@slots == $number && keys %numbers == $number) {
            return @slots;
        } elsif ($listings == $LISTINGS) {
            my $chosen = one_each($it, $directory, $limit, \@slots, $now);
            if ($chosen) {
                last if !@$chosen;
                $view->{lost} += $number - @$chosen;
                return @$chosen;
            }
        } else {
            $listings++;
        }
        $now = clock();
        @found = entries("$it->{root}/$directory");
    }
    my $why = "This limit's directory has no slots (remove it: the next hit makes it anew)";
    die failed("$it->{root}/$directory", $why, 'ENOENT');
}

# Returns whether this call made the directory. If there is no room, sets the denial.
sub furnish_if_there_is_room {
    my ($it, $segment, $directory, @names) = @_;
    my $is_newcomer = $segment == 0 && $it->{newcomers} ne '';
    my ($wait, $why) = (60, 'the file system is full');
    my $result = eval {
        my $count = $is_newcomer ? count_of($it, $it->{newcomers}, '.newcomers') : undef;
        if (!$count || $count->{allowed}) {
            furnish($it, $directory, @names) ? 'made' : 'lost';
        } else {
            ($wait, $why) = ($count->{retry_after}, "LIMITER_NEWCOMERS is $it->{newcomers}");
            'refused';
        }
    };
    if (!$result) {
        my $error = $@;
        my $is_full = ref $error eq 'Limiter::StoreError' && $error->symbol =~ /\A(?:ENOSPC|EDQUOT|EMLINK)\z/;
        die $error if !$is_full || ($segment == 0 && !$is_newcomer);
        $result = 'refused';
    }
    return $result eq 'made' if $result ne 'refused';
    my @views = map { view_of($_) } @{ $it->{limits} };
    for my $view (@views) {
        $view->{used} = $view->{limit}{quota};
        $view->{next} = $wait == 9**9**9 ? 0 : int($wait * $SECOND);
    }
    my $is_new = eval { count_of($it, '1/minute', '.refusals')->{allowed} } // 1;
    my $what = $segment == 0 ? 'new clients' : 'more hits of known clients';
    push @{ $it->{notes} }, "$it->{root}: $what are refused (429): $why" if $is_new;
    $it->{refused} = decision($it, 0, $wait, \@views, 0, 0);
    return 0;
}

# Count something else in the same store, whatever room there is.
sub count_of {
    my ($it, $limits, $app) = @_;
    return decide(attempt($it->{root}, [parse($limits)], $app, ''));
}

sub furnish {
    my ($it, $directory, @names) = @_;
    my $path = "$it->{root}/$directory";
    return 0 if !remove_empty($path);
    open my $random, '<:raw', '/dev/urandom' or die failed('/dev/urandom');
    read $random, my $unique, 8;
    close $random;
    my $aside = "$it->{root}/.new-" . unpack 'H*', $unique;
    my $lost = 'EEXIST|ENOENT|ESTALE';
    my $is_moved = eval {
        fill($it, $aside, @names);
        $lost .= '|ENOTEMPTY|EMLINK';
        rename $aside, $path or die failed($path);
        1;
    };
    if (!$is_moved) {
        my $error = $@;
        discard($aside, @names);
        die $error if !ref $error || $error->symbol !~ /\A(?:$lost)\z/;
        must_exist($it->{root});
        return 0;
    }

    # On GlusterFS, a copy that has just come back makes a rename succeed that all others refuse.
    return 1 if !done(scalar lstat($aside), $aside);
    discard($aside, @names);
    return 0;
}

sub fill {
    my ($it, $aside, @names) = @_;
    my @home = stat "$it->{root}/." or die failed($it->{root});
    my $mode = $home[2] & 02777;
    mkdir $aside, $mode or die failed($aside);
    my ($first, @others) = map { "$aside/$_" } @names;
    create($first);
    share($first, \@home, $mode & 0666);
    for my $path (@others) {
        next if link $first, $path;
        die failed($path) if $! == 17 || $! == 2 || $! == 116;
        create($path);    # a file system without hard links
    }
    share($aside, \@home, $mode);
    return;
}

sub create {
    my ($path) = @_;
    sysopen my $file, $path, 01 | 0100 | 0200 or die failed($path);    # O_WRONLY | O_CREAT | O_EXCL
    close $file;
    return;
}

# Let all use this who may use the store, whoever makes it.
sub share {
    my ($path, $home, $mode) = @_;
    my @made = stat $path or die failed($path);
    my $owner = $> == 0 ? $home->[4] : $made[4];
    my $is_done = 1;
    $is_done = chmod $mode, $path if ($made[2] & 07777) != $mode;
    $is_done &&= chown $owner, $home->[5], $path if $made[4] != $owner || $made[5] != $home->[5];
    die failed($path) if !$is_done && $! != 1 && $! != 13;
    return;
}

sub discard {
    my ($aside, @names) = @_;
    unlink map { "$aside/$_" } @names;    # errors are ignored: the one that led here is reported
    rmdir $aside;
    return;
}

# A later name of a free slot: also free, but not idle.
sub freed {
    my ($limit, $name, $now) = @_;
    return name_of(most(time_of($name) + 1, $now - $limit->{window} - 1), 0, number_of($name));
}

sub renamed {
    my ($it, $directory, $old, $new) = @_;
    my $path = "$it->{root}/$directory/";
    return done(rename($path . $old, $path . $new), $path . $old);
}

# End a sweep whose sweeper may have died.
sub settle {
    my ($it, $directory, $limit, $slots, $marks, $now) = @_;
    my $path = "$it->{root}/$directory";
    for my $mark (@$marks) {
        my $lowest = substr $mark, 6;
        my $number = slot($limit, $lowest);
        if (grep { slot($limit, $_) == $number } @$slots) {
            my $is_there = grep { $_ eq $lowest } @$slots;
            if (!$is_there || renamed($it, $directory, $lowest, freed($limit, $lowest, $now))) {
                done(unlink("$path/$mark"), "$path/$mark");
            }
        } elsif (!grep { time_of($_) > $now - $limit->{window} || slot($limit, $_) < $number } @$slots) {
            done(unlink("$path/$_"), "$path/$_") for @$slots, $mark;
            remove_empty($path);
        } else {
            renamed($it, $directory, $mark, freed($limit, $lowest, $now));
        }
    }
    return;
}

# The newest name of each slot. Undef: another process changed one, list again.
sub one_each {
    my ($it, $directory, $limit, $slots, $now) = @_;
    my %names;
    push @{ $names{ slot($limit, $_) } }, $_ for @$slots;
    my $free = $now - $limit->{window};
    my $wakes = keys %names < @$slots && time_of($slots->[-1]) <= $free;
    my @chosen;
    for my $number (sort { $a <=> $b } keys %names) {
        my @older = @{ $names{$number} };
        my $newest = pop @older;
        if ((@older || $wakes) && time_of($newest) <= $free) {
            my $later = freed($limit, $newest, $now);
            if (renamed($it, $directory, $newest, $later)) {
                for my $path (map { "$it->{root}/$directory/$_" } @older) {
                    return undef if !done(unlink($path), $path);
                }
                $newest = $later;
            } elsif ($wakes) {
                return undef;
            }
            $wakes = 0;
        }
        push @chosen, $newest;
    }
    return [sort @chosen];
}

# Claim what the hit needs in each view. False: a race was lost, and nothing is claimed.
sub claim {
    my ($it, @views) = @_;
    # First what can always be given back, then shorter windows.
    my $order = sub { my ($limit) = @_; return ($limit->{kind} eq 'sliding' ? 0 : 1, $limit->{window}) };
    my %place;
    for my $nth (0 .. $#views) {
        my ($kind, $window) = $order->($views[$nth]{limit});
        $place{$nth} = sprintf '%d %020d %04d', $kind, $window, $nth;
    }
    my @sorted = map { $views[$_] } sort { $place{$a} cmp $place{$b} } keys %place;
    my @claims;
    my $is_whole = eval {
        for my $view (@sorted) {
            my $claim = claim_in($it, $view, $view != $sorted[-1]) or return 0;
            push @claims, $claim;
        }
        1;
    };
    return 1 if $is_whole;
    my $error = $@;
    if ($error) {
        eval { give_back($it, @claims) };    # the first error is reported
        die $error;
    }
    give_back($it, @claims);
    return 0;
}

sub claim_in {
    my ($it, $view, $is_provisional) = @_;
    for my $pair (@{ $view->{free} }) {
        my ($directory, $name) = @$pair;
        my $new;
        # After a fault nobody knows whether it was done: try another slot.
        surviving($it, sub { $new = take($it, $view, $directory, $name, $is_provisional) });
        return [$view, $directory, $name, $new] if defined $new;
        return undef if $view->{idle}{$directory};    # another hit woke it, or a sweeper has it: look again
    }
    return undef;
}

sub take {
    my ($it, $view, $directory, $name, $is_provisional) = @_;
    my $limit = $view->{limit};
    my $now = most($view->{now}, clock());
    my $new = taken($limit, $name, $now, $is_provisional);
    return undef if !renamed($it, $directory, $name, $new);
    my $late = clock() - $now;
    if ($late > 10_000 && $late > $limit->{window} / 20) {
        # The hit is admitted only now. With the earlier stamp it would be forgotten too soon.
        my $again = taken($limit, $name, $now + $late, $is_provisional);
        return $again if renamed($it, $directory, $new, $again);
    }
    return $new;
}

sub give_back {
    my ($it, @claims) = @_;
    for my $claim (reverse @claims) {
        my ($view, $directory, $old, $new) = @$claim;
        # After a fault: to repeat it might admit one hit too many.
        surviving($it, sub {
            return if renamed($it, $directory, $new, released($view->{limit}, $old, clock()));
            for (1 .. $ROUNDS) {
                my @names = grep { is_name($_) } entries("$it->{root}/$directory") or last;
                my $undone = returned($view->{limit}, $names[-1], $new, clock());
                last if !defined $undone || renamed($it, $directory, $names[-1], $undone);
            }
        });
    }
    return;
}

# The interface.

sub check_app {
    my ($app) = @_;
    return if $app =~ /\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z/;
    (my $shown = substr $app, 0, 200) =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ge;
    die mistake("app_id '$shown': expected 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or a digit");
}

sub hit {
    my ($root, $limits, $app, $newcomers) = @_;
    $newcomers //= '20/second burst 1000';
    check_app($app);
    my @limits = parse($limits);
    parse($newcomers) if $newcomers ne '';
    return decide(attempt($root, \@limits, $app, $newcomers));
}

sub peek {
    my ($root, $limits, $app) = @_;
    check_app($app);
    my $it = attempt($root, [parse($limits)], $app, '');
    my (@views, @short);
    for my $limit (@{ $it->{limits} }) {
        my $view = look($it, $limit, 0);
        push @views, $view;
        my $is_seen = @{ $view->{order} };
        must_exist($root) if !$is_seen;
        push @short, $view if $is_seen ? !@{ $view->{free} } : $limit->{quota} < 1;
    }
    my $now = clock();
    return @short ? deny($it, \@views, \@short, $now) : decision($it, 1, 0, \@views, $now, 0);
}

# A request.

my %UNSUPPORTED = (
    NODES => '1', RULES => '', TRUSTED_PROXIES => '', IPV6_PREFIX => '64', HEADERS => 'draft', PROBLEM => '0',
    JITTER => '0', LOG => 'stderr', LOG_LEVEL => 'error', LOG_SAMPLE => '1', MAIL_TO => '', MAIL_FROM => '', SMTP => '',
);
my %REASONS = (200 => 'OK', 401 => 'Unauthorized', 429 => 'Too Many Requests', 500 => 'Internal Server Error');

sub setting {
    my ($variables, $name, $default) = @_;
    my $value = $variables->{"LIMITER_$name"};
    return defined $value && $value ne '' ? $value : $default;
}

sub log_line {
    (my $text = substr $_[0], 0, 2000) =~ s/([^ -~])/sprintf '\\x%02x', ord $1/ge;
    print {*STDERR} "limiter: $text\n";
    return;
}

# Returns if the hit is admitted, after the RateLimit header fields were printed. Otherwise answers 401, 429 or 500,
# and ends the script. Call it before anything is printed. Returns the decision, nothing if nothing was counted.
sub guard {
    my ($status, $fields, $body, $decision) = answer(\%ENV);
    my $head = $status == 200 ? '' : "Status: $status $REASONS{$status}\n";
    my @lines = @$fields;
    while (my ($name, $value) = splice @lines, 0, 2) { $head .= "$name: $value\n" }
    local $| = 1;
    if ($status == 200) {
        print $head;
        return $decision;
    }
    print "$head\n$body";
    # Under mod_cgid the answer may be lost while a body is unread.
    for (1 .. 64) { last if !($ENV{CONTENT_LENGTH} && read STDIN, my $part, 65536) }
    exit 0;
}

# The answer to a request, by its CGI variables, with the settings among them: the status; the header fields, as a
# list of names and values; the body; the decision if a hit was counted or denied. Admitted: 200, and no body.
sub answer {
    my ($variables) = @_;
    my ($status, $decision);
    if (!eval { ($status, $decision) = judge($variables); 1 }) {
        my $error = $@;
        log_line(ref $error ? $error->message : $error);
        my $admits = ref $error eq 'Limiter::StoreError' && setting($variables, 'ON_ERROR', 'deny') eq 'admit';
        $status = $admits || setting($variables, 'MODE', 'enforce') eq 'shadow' ? 200 : 500;
    }
    my @fields;
    if ($decision) {
        log_line($_) for @{ $decision->{notes} };
        my $seconds = sub { my ($time) = @_; my $whole = int $time; $whole++ if $whole < $time; return most(1, $whole) };
        my @quotas = @{ $decision->{quotas} };
        push @fields, 'RateLimit-Policy', join ', ', map { qq("$_->{name}";q=$_->{quota};w=$_->{window}) } @quotas;
        push @fields, 'RateLimit', join ', ', map { qq("$_->{name}";r=$_->{remaining};t=) . $seconds->($_->{reset}) } @quotas;
        if ($status == 429) {
            my ($longest) = sort { $b <=> $a } map { $_->{window} } @quotas;
            my $retry = $decision->{retry_after};
            push @fields, 'Retry-After', $retry == 9**9**9 ? $longest : $seconds->($retry);
        }
    }
    return ($status, \@fields, '', $decision) if $status == 200;
    push @fields, 'WWW-Authenticate', 'AppId realm="limiter"' if $status == 401;
    push @fields, 'Content-Type', 'application/json; charset=utf-8', 'Cache-Control', 'no-store';
    my $body = ($variables->{REQUEST_METHOD} // '') eq 'HEAD' ? '' : qq({"message": "$REASONS{$status}"});
    return ($status, \@fields, $body, $decision);
}

# The status, and the decision if a hit was counted or denied.
sub judge {
    my ($variables) = @_;
    for my $name (sort keys %UNSUPPORTED) {
        next if setting($variables, $name, $UNSUPPORTED{$name}) eq $UNSUPPORTED{$name};
        die mistake("LIMITER_$name: Perl's client does not know this setting (put the guard or the map in front)");
    }
    my ($mode, $on_error) = (setting($variables, 'MODE', 'enforce'), setting($variables, 'ON_ERROR', 'deny'));
    die mistake("LIMITER_MODE='$mode': expected 'enforce' or 'shadow' or 'off'") if $mode !~ /\A(?:enforce|shadow|off)\z/;
    die mistake("LIMITER_ON_ERROR='$on_error': expected 'deny' or 'admit'") if $on_error !~ /\A(?:deny|admit)\z/;
    return (200, undef) if $mode eq 'off' || ($variables->{REDIRECT_STATUS} // '') =~ /\A[45]/;
    my $app = app_id($variables, setting($variables, 'KEY', 'app_id'));
    my ($status, $decision) = defined $app ? decide_for($variables, $app) : (401, undef);
    return ($status, $decision) if $mode eq 'enforce';
    log_line("shadow: a request would have got $status $REASONS{$status}") if $status != 200;
    return (200, undef);
}

sub decide_for {
    my ($variables, $app) = @_;
    my @roots = split /:/, setting($variables, 'ROOT', ' '), -1;
    for my $root (@roots) {
        die mistake("LIMITER_ROOT='$root': expected an absolute path (Perl's client has no default store)") if $root !~ m{\A/};
    }
    if (@roots > 1) {
        require Digest::SHA;
        @roots = sort { Digest::SHA::sha256_hex("$b\0$app") cmp Digest::SHA::sha256_hex("$a\0$app") } @roots;
    }
    my $limits = setting($variables, 'LIMIT', '10/second');
    my $newcomers = setting($variables, 'NEWCOMERS', '20/second burst 1000');
    $newcomers = '' if $newcomers eq 'unlimited';
    my $register = setting($variables, 'APPS', '');
    if ($register ne '') {
        my ($is_own, $text) = look_up($register, $app);
        return (401, undef) if !defined $text;
        return (200, undef) if $text eq 'unlimited';
        $limits = $text;
        $newcomers = '' if $is_own;
    }
    my $counted = setting($variables, 'COUNTED', '');
    if ($counted ne '') {
        # The map in front of this script has counted something. See limiter/request/one_hit.py.
        require Digest::SHA;
        my $names = $register eq '' ? join ';', map { directory($_, 0) } parse($limits) : '';
        my @own = (setting($variables, 'ROOT', ''), $register, $names, '1', setting($variables, 'MODE', 'enforce'), '', $app);
        return (200, undef) if substr(Digest::SHA::sha256_hex(join "\n", @own), 0, 16) eq $counted;
    }
    my $decision = hit($roots[0], $limits, $app, $newcomers);
    return ($decision->{allowed} ? 200 : 429, $decision);
}

# Whether the register names this client, and its limits; nothing if it is unknown.
sub look_up {
    my ($register, $app) = @_;
    die mistake("LIMITER_APPS='$register': expected an absolute path") if $register !~ m{\A/};
    for my $name ($app, '.default') {
        my $text = readlink "$register/$name";
        next if !done(defined $text, "$register/$name");
        # Behind an "@" are the networks of the register, which are for addresses alone.
        $text =~ s/@.*//s if $name ne $app;
        return $text eq '' ? () : ($name eq $app, $text);
    }
    return () if done(scalar stat("$register/."), $register);
    die failed($register, 'The register does not exist (make it, or correct LIMITER_APPS)', 'ENOENT');
}

sub unquote {
    my ($text) = @_;
    $text =~ s/%([0-9A-Fa-f]{2})/chr hex $1/ge;
    return $text;
}

# The app_id of this request: the one value of the parameter, in whatever spelling. Undef: 401.
sub app_id {
    my ($variables, $key) = @_;
    if ($key !~ /\A[A-Za-z0-9._-]*[A-Za-z0-9][A-Za-z0-9._-]*\z/) {
        die mistake("LIMITER_KEY='$key': Perl's client knows parameters alone (put the guard or the map in front)");
    }
    (my $folded = lc $key) =~ tr/./_/;
    (my $like = $folded) =~ s/\A_+//;
    (my $query = $variables->{QUERY_STRING} // '') =~ s/;/;&;/g;
    my @found;
    for my $pair (split /&/, $query) {
        my ($name, $value) = split /=/, $pair, 2;
        $name //= '';
        push @found, [$name, $value // ''] if length $name >= length $like && (lc $name eq $folded || resembles($name, $like));
    }
    return undef if @found != 1 || unquote($found[0][0]) ne $key;
    my $app = unquote($found[0][1]);
    return $app =~ /\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z/ ? $app : undef;
}

# Whether some application may treat this name as the parameter's: see limiter/request/key.py.
sub resembles {
    my ($name, $like) = @_;
    return 0 if $name !~ /[^A-Za-z0-9_-]/;
    $name =~ s/%u00/%/g;
    $name = lc unquote($name);
    my %odd = map { $_ => 1 } $name =~ /([^a-z0-9_-])/g;
    my $is_odd = sub { return $odd{ $_[0] } };
    my $start = 0;
    $start++ while $start < length $name && (substr($name, $start, 1) eq '_' || $is_odd->(substr $name, $start, 1));
    $name = substr $name, $start;
    my $alike = join '', map { $is_odd->($_) ? '_' : $_ } split //, $name;
    return 0 if index($alike, $like) != 0;
    my $after = substr $name, length $like, 1;
    return !defined $after || $after eq '' || $is_odd->($after) ? 1 : 0;
}

1;
