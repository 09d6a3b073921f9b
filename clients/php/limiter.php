<?php
/**
 * Access Limiter for PHP: at most so many requests in each window for each client, exact over all processes.
 *
 *     require 'limiter.php';
 *     Limiter\guard();
 *
 * It answers 401, 429 or 500 itself, or returns and sets the RateLimit header fields. It shares its store with
 * the other clients of store format 1 (docs/store-format.md). It needs PHP 8.1, 64 bits, and no extension.
 *
 * LIMITER_ROOT must be set. LIMITER_LIMIT, _NEWCOMERS, _APPS, _KEY, _MODE and _ON_ERROR are as in
 * docs/settings.md. Any other setting that is not at its default gets a 500 that says so: nothing is ignored.
 * The one exception: PHP cannot see how many inodes are free, so newcomers are refused only when a call fails.
 *
 * For your own purposes: Limiter\hit($root, '10/minute', $name) and Limiter\peek(...).
 */

declare(strict_types=1);

namespace Limiter;

// The condition lets the file be required twice: only what it encloses is not declared at compile time.
if (!\function_exists('Limiter\guard')) {
    /** The store failed. $symbol is errno's name, as ENOENT; $path is the file or directory. */
    final class StoreError extends \RuntimeException
    {
        public function __construct(public readonly string $symbol, string $why, public readonly string $path)
        {
            parent::__construct("[$symbol] $why: $path");
        }
    }

    /** A setting or an argument is wrong. */
    final class Mistake extends \InvalidArgumentException
    {
    }

    /**
     * The answer to a hit. $retryAfter: seconds until the same hit is allowed; 0 if it is; INF if never.
     * $quotas: for each limit its name, quota, window (seconds), remaining and reset (seconds).
     */
    final class Decision
    {
        /** @param list<array{name: string, quota: int, window: int, remaining: int, reset: float}> $quotas */
        public function __construct(
            public readonly bool $allowed,
            public readonly float $retryAfter,
            public readonly array $quotas,
            /** @var list<string> what an administrator should know about the store */
            public readonly array $notes = [],
        ) {
        }
    }

    // Calls to the file system. PHP has no errno: the end of its warning has the text.

    \define('Limiter\SYMBOLS', [
        'No such file or directory' => 'ENOENT', 'Stale file handle' => 'ESTALE', 'File exists' => 'EEXIST',
        'Directory not empty' => 'ENOTEMPTY', 'Too many links' => 'EMLINK', 'Permission denied' => 'EACCES',
        'Operation not permitted' => 'EPERM', 'No space left on device' => 'ENOSPC',
        'Disk quota exceeded' => 'EDQUOT', 'File descriptor in bad state' => 'EBADFD',
        'Transport endpoint is not connected' => 'ENOTCONN', 'Not a directory' => 'ENOTDIR',
        'Is a directory' => 'EISDIR', 'Input/output error' => 'EIO', 'Read-only file system' => 'EROFS',
        'Too many open files' => 'EMFILE', 'Too many open files in system' => 'ENFILE',
        'Cannot allocate memory' => 'ENOMEM', 'Invalid argument' => 'EINVAL',
        'Too many levels of symbolic links' => 'ELOOP', 'File name too long' => 'ENAMETOOLONG',
        'Operation not supported' => 'EOPNOTSUPP', 'Invalid cross-device link' => 'EXDEV',
        'Resource temporarily unavailable' => 'EAGAIN', 'Device or resource busy' => 'EBUSY',
        'Connection timed out' => 'ETIMEDOUT', 'Function not implemented' => 'ENOSYS',
    ]);

    /** The warnings of PHP while the store is called, whatever the application's handler does with them. */
    final class Warnings
    {
        public static string $last = '';

        /**
         * Run a function while warnings come here, and messages of the system are in English.
         *
         * @template T
         * @param callable(): T $function
         * @return T
         */
        public static function during(callable $function): mixed
        {
            $locale = \defined('LC_MESSAGES') ? \setlocale(\LC_MESSAGES, '0') : false;
            if ($locale !== false && $locale !== 'C') {
                \setlocale(\LC_MESSAGES, 'C');
            }
            \set_error_handler(static function (int $level, string $message): bool {
                self::$last = $message;
                return true;
            });
            try {
                return $function();
            } finally {
                \restore_error_handler();
                if ($locale !== false && $locale !== 'C') {
                    \setlocale(\LC_MESSAGES, $locale);
                }
            }
        }

        /** The error that the last warning tells of. */
        public static function error(string $path): StoreError
        {
            $text = \trim((string) \substr((string) \strrchr(self::$last, ':'), 1));
            if (\str_contains(self::$last, 'tat failed for ')) {
                $text = 'No such file or directory'; // all that PHP says of stat() and lstat()
            }
            $symbol = SYMBOLS[$text] ?? '';
            return new StoreError($symbol ?: 'EIO', $symbol ? $text : self::$last, $path);
        }
    }

    /** Whether a call has succeeded. False: what it was for is gone. Throws StoreError for anything else. */
    function done(bool $result, string $path): bool
    {
        if ($result) {
            return true;
        }
        $error = Warnings::error($path);
        if ($error->symbol === 'ENOENT' || $error->symbol === 'ESTALE') {
            return false;
        }
        throw $error;
    }

    /** @return list<string> the entries of a directory, sorted; none if there is no such directory */
    function entries(string $path): array
    {
        // Its second warning is "scandir(): (errno 2): No such file or directory".
        $found = \scandir($path, \SCANDIR_SORT_NONE);
        if (!done($found !== false, $path)) {
            return [];
        }
        $found = \array_values(\array_diff($found, ['.', '..']));
        \sort($found, \SORT_STRING);
        return $found;
    }

    function remove_empty(string $path): bool
    {
        try {
            done(\rmdir($path), $path);
        } catch (StoreError $error) {
            if (!\in_array($error->symbol, ['EEXIST', 'ENOTEMPTY', 'EMLINK'], true)) {
                throw $error;
            }
            return false;
        }
        return true;
    }

    function must_exist(string $root): void
    {
        \clearstatcache();
        if (!done(\stat("$root/.") !== false, $root) || !\is_dir("$root/.")) {
            throw new StoreError('ENOENT', 'The store does not exist (make it, or set LIMITER_ROOT)', $root);
        }
    }

    // The arithmetic of limits. Times are microseconds since the epoch.

    \define('Limiter\SECOND', 1_000_000);
    \define('Limiter\LONGEST', 3660 * 86400);
    \define('Limiter\FEW', 16);
    \define('Limiter\SEGMENT', 64);

    function clock(): int
    {
        $now = \microtime(); // as text: a float would lose digits
        return (int) (\substr($now, 11) . \substr($now, 2, 6));
    }

    function stamp(int $time): string
    {
        $digits = \str_pad((string) $time, 16, '0', \STR_PAD_LEFT);
        return \substr($digits, 0, 10) . '.' . \substr($digits, 10);
    }

    function time_of(string $name): int
    {
        return (int) (\substr($name, 0, 10) . \substr($name, 11, 6));
    }

    function number_of(string $name): int
    {
        return (int) \substr($name, 18);
    }

    function name(int $time, bool $provisional, int $number): string
    {
        return stamp($time) . ($provisional ? '~' : '-') . $number;
    }

    function is_name(string $text): bool
    {
        return \preg_match('/\A[0-9]{10}\.[0-9]{6}[-~](?:0|[1-9][0-9]{0,17})\z/', $text) === 1;
    }

    /** A limit of one kind. Names are sorted slots of one directory, at least one. */
    abstract class Limit
    {
        public string $policy = '';
        public string $name = '';
        public int $segments = 1;
        public bool $isReturnable = false;

        public function __construct(public readonly int $quota, public readonly int $window)
        {
        }

        public function label(): string
        {
            return $this->policy === '' ? $this->name : $this->policy;
        }

        public function directory(int $segment): string
        {
            $name = $this->policy === '' ? $this->name : "$this->policy=$this->name";
            return $segment ? "$name.$segment" : $name;
        }

        /** @return array{int, int} the first number of the slots of this directory, and how many there are */
        public function numbers(int $segment): array
        {
            return [0, 1];
        }

        public function slot(string $name): int
        {
            return 0;
        }

        public function expiry(int $now): int
        {
            return $this->window;
        }

        /** The name that takes a slot back which was claimed and is not needed. */
        public function released(string $old, int $now): string
        {
            return \max($old, name(\max(0, $now - $this->window - 1), false, $this->slot($old)));
        }

        /**
         * @param list<string> $names
         * @return array{list<string>, int, int} the names that a hit may claim, the hits that count, and the
         *     microseconds until the first of these no longer does
         */
        abstract public function look(array $names, int $now): array;

        abstract public function taken(string $name, int $now, bool $provisional): string;

        /** The name that undoes $claim, on which others have built $name; null if there is nothing to undo. */
        abstract public function returned(string $name, string $claim, int $now): ?string;
    }

    final class Sliding extends Limit
    {
        public function __construct(int $quota, int $window)
        {
            parent::__construct($quota, $window);
            $this->name = "$quota-per-" . \intdiv($window, SECOND) . 's';
            $this->segments = \intdiv($quota + SEGMENT - 1, SEGMENT) + ($quota > FEW ? 1 : 0);
            $this->isReturnable = true;
        }

        public function numbers(int $segment): array
        {
            $first = $segment === 1 ? FEW : SEGMENT * \max($segment - 1, 0);
            return [$first, \min($segment ? SEGMENT * $segment : FEW, $this->quota) - $first];
        }

        public function slot(string $name): int
        {
            return number_of($name);
        }

        public function look(array $names, int $now): array
        {
            $begin = stamp(\max(1, $now - $this->window + 1));
            $end = stamp($now + $this->window + 1);
            $free = [];
            $first = '';
            foreach ($names as $name) {
                if (\strcmp($name, $begin) < 0 || \strcmp($name, $end) >= 0) {
                    $free[] = $name;
                } elseif ($first === '') {
                    $first = $name;
                }
            }
            $used = \count($names) - \count($free);
            return [$free, $used, $used ? time_of($first) + $this->window - $now : 0];
        }

        public function taken(string $name, int $now, bool $provisional): string
        {
            return stamp($now) . ($provisional ? '~' : '-') . \substr($name, 18);
        }

        public function released(string $old, int $now): string
        {
            $later = name(time_of($old) + 1, false, number_of($old));
            return \max($later, name(\max(0, $now - $this->window - 1), false, number_of($old)));
        }

        public function returned(string $name, string $claim, int $now): ?string
        {
            return null;
        }
    }

    final class Fixed extends Limit
    {
        public function __construct(int $quota, int $window)
        {
            parent::__construct($quota, $window);
            $this->name = "$quota-per-" . \intdiv($window, SECOND) . 's-fixed';
        }

        public function look(array $names, int $now): array
        {
            $last = $names[\count($names) - 1];
            [$time, $used] = $this->state($last, $now);
            return [$used < $this->quota ? [$last] : [], $used, $used ? $this->end($time) - $now : 0];
        }

        public function taken(string $name, int $now, bool $provisional): string
        {
            [$time, $used] = $this->state($name, $now);
            return name($time, $provisional || ($used > 0 && $name[17] === '~'), $used + 1);
        }

        public function expiry(int $now): int
        {
            return $this->end($now) - $now;
        }

        public function returned(string $name, string $claim, int $now): ?string
        {
            $time = time_of($name);
            if (\intdiv($time, $this->window) !== \intdiv(time_of($claim), $this->window)) {
                return null;
            }
            return name($time, $name[17] === '~', number_of($name) - 1);
        }

        /** @return array{int, int} the time to count at, and the hits so far in its window */
        private function state(string $name, int $now): array
        {
            $last = time_of($name);
            if ($last > $now + $this->window) {
                return [$now, 0];
            }
            $time = \max($last, $now);
            $isSame = \intdiv($last, $this->window) === \intdiv($time, $this->window);
            return [$time, $isSame ? number_of($name) : 0];
        }

        private function end(int $time): int
        {
            return (\intdiv($time, $this->window) + 1) * $this->window;
        }
    }

    /** $quota tokens, into which $rate flow in each $period; $window is how long it takes to fill. */
    final class Burst extends Limit
    {
        public function __construct(private readonly int $rate, private readonly int $period, int $quota)
        {
            // Else the products below may not fit into 64 bits.
            if ($period > \intdiv(\PHP_INT_MAX, 4 * ($quota + $rate))) {
                throw new Mistake('a burst limit of these numbers is too large for PHP');
            }
            parent::__construct($quota, \intdiv($period * $quota + $rate - 1, $rate));
            $this->name = "$rate-per-" . \intdiv($period, SECOND) . "s-burst-$quota";
        }

        public function look(array $names, int $now): array
        {
            $last = $names[\count($names) - 1];
            $debt = $this->debt($last, $now);
            $used = \min(\intdiv($debt + $this->period - 1, $this->period), $this->quota);
            $next = $debt - ($used - 1) * $this->period;
            $free = $debt + $this->period <= $this->quota * $this->period ? [$last] : [];
            return [$free, $used, $used ? \intdiv($next + $this->rate - 1, $this->rate) : 0];
        }

        public function taken(string $name, int $now, bool $provisional): string
        {
            $debt = $this->debt($name, $now);
            $units = $debt + $this->period;
            $mark = $provisional || ($debt > 0 && $name[17] === '~');
            return name($now + \intdiv($units, $this->rate), $mark, $units % $this->rate);
        }

        public function expiry(int $now): int
        {
            return \intdiv($this->period + $this->rate - 1, $this->rate);
        }

        public function returned(string $name, string $claim, int $now): ?string
        {
            if ($now >= time_of($claim)) {
                return null;
            }
            // time * rate + number - period, without a product that may not fit
            $rest = number_of($name) - $this->period % $this->rate;
            $time = time_of($name) - \intdiv($this->period, $this->rate) - ($rest < 0 ? 1 : 0);
            return name($time, $name[17] === '~', $rest < 0 ? $rest + $this->rate : $rest);
        }

        /** How much the bucket lacks until it is full, in units of 1/rate of a microsecond. */
        private function debt(string $name, int $now): int
        {
            $ahead = time_of($name) - $now;
            if ($ahead > $this->window + $this->period || $ahead < -1) {
                return 0;
            }
            return \max(0, $ahead * $this->rate + number_of($name));
        }
    }

    // The notation of limits: docs/limits.md.

    \define('Limiter\UNITS', [
        'second' => 1, 'seconds' => 1, 'sec' => 1, 's' => 1, 'minute' => 60, 'minutes' => 60, 'min' => 60,
        'm' => 60, 'hour' => 3600, 'hours' => 3600, 'h' => 3600, 'day' => 86400, 'days' => 86400, 'd' => 86400,
        'month' => 2592000, 'months' => 2592000, 'year' => 31104000, 'years' => 31104000,
    ]);

    /** @return list<Limit> the limits that the text names, in its order. Throws Mistake. */
    function parse(string $text): array
    {
        $wrong = static fn (string $why): Mistake => new Mistake("limit '" . \substr($text, 0, 200) . "': $why");
        $limits = [];
        foreach (\preg_split('/[;,|]/', $text) ?: [] as $part) {
            $pattern = '/\A[ \t]*(?:([a-z][a-z0-9-]{0,31})[ \t]*=[ \t]*)?([0-9]{1,15})[ \t]*(?:\/|per)[ \t]*'
                . '([0-9]{1,15})?[ \t]*([a-z]++)[ \t]*(?:(fixed)|burst[ \t]*([0-9]{1,15}))?[ \t]*\z/i';
            if (\preg_match($pattern, $part, $found, \PREG_UNMATCHED_AS_NULL) !== 1
                || ($found[1] !== null && $found[1] !== \strtolower($found[1]))) {
                throw $wrong("expected limits such as 10/second, found '$part'");
            }
            $unit = UNITS[\strtolower($found[4])] ?? throw $wrong("expected a unit, found '$found[4]'");
            $count = (int) $found[2];
            $multiple = (int) ($found[3] ?? 1);
            if ($multiple < 1 || $multiple > \intdiv(LONGEST, $unit)) {
                throw $wrong('expected a window from 1 second to 3660 days');
            }
            $window = $multiple * $unit;
            $burst = isset($found[6]) ? (int) $found[6] : null;
            if ($burst === 0) {
                throw $wrong('expected a capacity of at least 1');
            }
            if ($burst !== null && $count) {
                // window * burst > LONGEST * count, without products that may not fit
                if ($burst > \intdiv(LONGEST, $window) * (float) $count + (LONGEST % $window) * $count / $window) {
                    throw $wrong('expected a bucket that fills within 3660 days');
                }
                $limit = new Burst($count, $window * SECOND, $burst);
            } elseif ($found[5] !== null && $count) {
                $limit = new Fixed($count, $window * SECOND);
            } elseif ($count <= 10000) {
                $limit = new Sliding($count, $window * SECOND);
            } else {
                throw $wrong('expected a sliding limit of at most 10000 hits');
            }
            $limit->policy = $found[1] ?? '';
            foreach ($limits as $other) {
                if ($other->directory(0) === $limit->directory(0)
                    || ($limit->policy !== '' && $other->policy === $limit->policy)) {
                    throw $wrong('expected a limit not yet given');
                }
            }
            $limits[] = $limit;
        }
        return $limits;
    }

    // A hit: look at all limits, then claim what it needs of each, or deny it and write nothing.

    \define('Limiter\ROUNDS', 1000);
    \define('Limiter\LISTINGS', 4);

    /** What one look at one limit shows. */
    final class View
    {
        /** @var array<string, list<string>> the sorted slots of each directory seen */
        public array $listed = [];
        /** @var list<array{string, string}> each directory and name that the hit may claim, in order */
        public array $free = [];
        /** @var array<string, true> the directories in which all slots are free */
        public array $idle = [];
        public int $now = 0;
        public int $used = 0;
        public int $next = 0;
        public int $lost = 0;
        public bool $isAll = false;

        public function __construct(public readonly Limit $limit)
        {
        }

        /** Look at one more listed directory. Returns whether to look at the next. */
        public function add(string $directory, int $now): bool
        {
            $names = $this->listed[$directory];
            [$free, $used, $first] = $this->limit->look($names, $now);
            if ($used && (!$this->used || $first < $this->next)) {
                $this->next = $first;
            }
            $this->now = $now;
            $this->used += $used;
            if ($free && !$this->free) {
                if ($used) {
                    $start = $now % \count($free); // contenders look at different moments
                    $free = [...\array_slice($free, $start), ...\array_slice($free, 0, $start)];
                } else {
                    $this->idle[$directory] = true;
                    $slot = $this->limit->slot(...);
                    \usort($free, static fn (string $one, string $other): int => $slot($one) <=> $slot($other));
                }
                foreach ($free as $name) {
                    $this->free[] = [$directory, $name];
                }
            }
            return !$this->free || ($this->limit->window >= 60 * SECOND && $this->unknown() > 0);
        }

        /** How many hits may count in directories that were not looked at. */
        public function unknown(): int
        {
            $oldest = \min(\array_map(static fn (array $names): string => $names[0], $this->listed));
            if ($this->isAll || \strcmp($oldest, stamp(\max($this->now - 2 * $this->limit->window, 0))) <= 0) {
                return 0;
            }
            $number = 0;
            for ($nth = \count($this->listed); $nth < $this->limit->segments; $nth++) {
                $number += $this->limit->numbers($nth)[1];
            }
            return $number;
        }

        /** @return array{name: string, quota: int, window: int, remaining: int, reset: float} */
        public function quota(int $now, int $cost): array
        {
            $limit = $this->limit;
            $reset = $this->used || !$cost ? $this->next : $limit->expiry($this->now);
            $unknown = $this->listed ? $this->unknown() : 0;
            return [
                'name' => $limit->label(),
                'quota' => $limit->quota,
                'window' => \intdiv($limit->window + SECOND - 1, SECOND),
                'remaining' => \max(0, $limit->quota - $this->used - $this->lost - $unknown - $cost),
                'reset' => \max(0, $this->now + $reset - $now) / SECOND,
            ];
        }
    }

    /** The looks and claims of one hit. */
    final class Attempt
    {
        /** @var list<string> */
        public array $notes = [];
        public ?Decision $refused = null;
        private int $faults = 0;
        private int $since = 0;

        /** @param list<Limit> $limits */
        public function __construct(
            private readonly string $root,
            private readonly array $limits,
            private readonly string $app,
            private readonly string $newcomers,
        ) {
        }

        public function hit(): Decision
        {
            foreach ($this->limits as $limit) {
                if ($limit->quota < 1) {
                    return $this->decision(false, \INF, $this->views(), 0, 0);
                }
            }
            for ($round = 0; $round < ROUNDS; $round++) {
                try {
                    $views = [];
                    foreach ($this->limits as $limit) {
                        $views[] = $this->look($limit);
                        if ($this->refused) {
                            return $this->refused;
                        }
                    }
                    $now = $views[\count($views) - 1]->now;
                    $short = \array_filter($views, static fn (View $view): bool => !$view->free);
                    if ($short) {
                        return $this->deny($views, $short, $now);
                    }
                    if ($this->claim($views)) {
                        return $this->decision(true, 0.0, $views, $now, 1);
                    }
                } catch (StoreError $error) {
                    $this->survive($error);
                }
            }
            throw new StoreError('EBUSY', 'Other hits claimed every free slot first', "$this->root/$this->app");
        }

        /** @return list<View> */
        private function views(): array
        {
            return \array_map(static fn (Limit $limit): View => new View($limit), $this->limits);
        }

        /** @param list<View> $views */
        private function decision(bool $allowed, float $retry, array $views, int $now, int $cost): Decision
        {
            $quotas = \array_map(static fn (View $view): array => $view->quota($now, $cost), $views);
            return new Decision($allowed, $retry, $quotas, $this->notes);
        }

        /** @param list<View> $views @param array<View> $short */
        public function deny(array $views, array $short, int $now): Decision
        {
            $end = $now + 1;
            foreach ($short as $view) {
                $end = \max($end, $view->now + $view->next);
            }
            return $this->decision(false, ($end - $now) / SECOND, $views, $now, 0);
        }

        /** List the segments until there is room or none is left. Missing ones are furnished. */
        public function look(Limit $limit, bool $furnishes = true): View
        {
            $view = new View($limit);
            for ($segment = 0; $segment < $limit->segments; $segment++) {
                $directory = "$this->app@" . $limit->directory($segment);
                $found = entries("$this->root/$directory");
                if (!$found && ($view->free || !$furnishes)) {
                    break;
                }
                $names = $this->complete($view, $segment, $directory, $found);
                if (!$names) {
                    return $view;
                }
                $view->listed[$directory] = $names;
                if (!$view->add($directory, clock())) {
                    return $view;
                }
            }
            if ($limit->segments === 1 || !$view->listed) {
                $view->isAll = true;
                return $view;
            }
            // The first segments may have gained room while the last were listed: look at all for one time.
            $again = new View($limit);
            $again->listed = $view->listed;
            $again->lost = $view->lost;
            $again->isAll = true;
            foreach (\array_keys($view->listed) as $directory) {
                $again->add($directory, $view->now);
            }
            return $again;
        }

        /**
         * @param list<string> $found
         * @return list<string> the sorted slots of a directory, one for each that it has; none: there is no room
         */
        private function complete(View $view, int $segment, string $directory, array $found): array
        {
            $limit = $view->limit;
            [$first, $number] = $limit->numbers($segment);
            $isSlot = static fn (string $name): bool => is_name($name)
                && $limit->slot($name) >= $first && $limit->slot($name) < $first + $number;
            $listings = 0;
            $now = 0;
            for ($round = 0; $round < ROUNDS; $round++) {
                $slots = \array_values(\array_filter($found, $isSlot));
                $numbers = \array_unique(\array_map($limit->slot(...), $slots));
                $marks = \array_filter(
                    $found,
                    static fn (string $it): bool => \str_starts_with($it, '.gone-') && $isSlot(\substr($it, 6)),
                );
                if (!$found) {
                    $time = \max(0, clock() - 2 * $limit->window - 1);
                    $names = [];
                    for ($nth = $first; $nth < $first + $number; $nth++) {
                        $names[] = name($time, false, $nth);
                    }
                    \sort($names, \SORT_STRING);
                    if ($this->furnishIfThereIsRoom($segment, $directory, $names)) {
                        return $names;
                    }
                    if ($this->refused) {
                        return [];
                    }
                } elseif ($marks && $listings) {
                    $this->settle($directory, $limit, $slots, $marks, $now);
                } elseif (\count($slots) === $number && \count($numbers) === $number) {
                    return $slots;
                } elseif ($listings === LISTINGS) {
                    $chosen = $this->oneEach($directory, $limit, $slots, $now);
                    if ($chosen) {
                        $view->lost += $number - \count($chosen);
                        return $chosen;
                    }
                    if ($chosen !== null) {
                        break;
                    }
                } else {
                    $listings++;
                }
                $now = clock();
                $found = entries("$this->root/$directory");
            }
            $why = "This limit's directory has no slots (remove it: the next hit makes it anew)";
            throw new StoreError('ENOENT', $why, "$this->root/$directory");
        }

        /** @param list<string> $names */
        private function furnishIfThereIsRoom(int $segment, string $directory, array $names): bool
        {
            $isNewcomer = $segment === 0 && $this->newcomers !== '';
            $wait = 60.0;
            $why = 'the file system is full';
            try {
                $count = $isNewcomer ? $this->count($this->newcomers, '.newcomers') : null;
                if (!$count || $count->allowed) {
                    return $this->furnish($directory, $names);
                }
                $wait = $count->retryAfter;
                $why = "LIMITER_NEWCOMERS is $this->newcomers";
            } catch (StoreError $error) {
                $isFull = \in_array($error->symbol, ['ENOSPC', 'EDQUOT', 'EMLINK'], true);
                if (!$isFull || ($segment === 0 && !$isNewcomer)) {
                    throw $error;
                }
            }
            $views = $this->views();
            foreach ($views as $view) {
                $view->used = $view->limit->quota;
                $view->next = \is_finite($wait) ? (int) ($wait * SECOND) : 0;
            }
            try {
                $isNew = $this->count('1/minute', '.refusals')->allowed;
            } catch (StoreError) {
                $isNew = true;
            }
            if ($isNew) {
                $what = $segment === 0 ? 'new clients' : 'more hits of known clients';
                $this->notes[] = "$this->root: $what are refused (429): $why";
            }
            $this->refused = $this->decision(false, $wait, $views, 0, 0);
            return false;
        }

        /** Count something else in the same store, whatever room there is. */
        private function count(string $limits, string $app): Decision
        {
            return (new self($this->root, parse($limits), $app, ''))->hit();
        }

        /** @param list<string> $names @return bool whether this call made the directory */
        private function furnish(string $directory, array $names): bool
        {
            $path = "$this->root/$directory";
            if (!remove_empty($path)) {
                return false;
            }
            $aside = "$this->root/.new-" . \bin2hex(\random_bytes(8));
            $lost = ['EEXIST'];
            try {
                $this->fill($aside, $names);
                $lost = ['EEXIST', 'ENOTEMPTY', 'EMLINK'];
                if (!\rename($aside, $path)) {
                    throw Warnings::error($path);
                }
            } catch (StoreError $error) {
                $this->discard($aside, $names);
                if (!\in_array($error->symbol, [...$lost, 'ENOENT', 'ESTALE'], true)) {
                    throw $error;
                }
                must_exist($this->root);
                return false;
            }
            // On GlusterFS, a copy that has just come back makes a rename succeed that all others refuse.
            \clearstatcache();
            if (!done(\lstat($aside) !== false, $aside)) {
                return true;
            }
            $this->discard($aside, $names);
            return false;
        }

        /** @param list<string> $names */
        private function fill(string $aside, array $names): void
        {
            \clearstatcache();
            $home = \stat("$this->root/.");
            if ($home === false) {
                throw Warnings::error($this->root);
            }
            $mode = $home['mode'] & 02777;
            if (!\mkdir($aside, $mode)) {
                throw Warnings::error($aside);
            }
            $first = "$aside/$names[0]";
            self::create($first);
            self::share($first, $home, $mode & 0666);
            foreach (\array_slice($names, 1) as $name) {
                if (!\link($first, "$aside/$name")) {
                    $error = Warnings::error("$aside/$name");
                    if (\in_array($error->symbol, ['EEXIST', 'ENOENT', 'ESTALE'], true)) {
                        throw $error;
                    }
                    self::create("$aside/$name"); // a file system without hard links
                }
            }
            self::share($aside, $home, $mode);
        }

        private static function create(string $path): void
        {
            $file = \fopen($path, 'x');
            if ($file === false) {
                throw Warnings::error($path);
            }
            \fclose($file);
        }

        /** @param array<int|string, int> $home */
        private static function share(string $path, array $home, int $mode): void
        {
            \clearstatcache();
            $made = \stat($path);
            if ($made === false) {
                throw Warnings::error($path);
            }
            if (($made['mode'] & 07777) !== $mode) {
                self::permitted(\chmod($path, $mode), $path);
            }
            if ($made['gid'] !== $home['gid']) {
                self::permitted(\chgrp($path, $home['gid']), $path);
            }
            if ($made['uid'] !== $home['uid'] && $made['uid'] === 0) {
                self::permitted(\chown($path, $home['uid']), $path);
            }
        }

        private static function permitted(bool $result, string $path): void
        {
            $error = $result ? null : Warnings::error($path);
            if ($error && $error->symbol !== 'EPERM' && $error->symbol !== 'EACCES') {
                throw $error;
            }
        }

        /** @param list<string> $names */
        private function discard(string $aside, array $names): void
        {
            foreach ($names as $name) {
                \unlink("$aside/$name"); // its errors are ignored: the one that led here is reported
            }
            \rmdir($aside);
        }

        /** A later name of a free slot: also free, but not idle. */
        private static function freed(Limit $limit, string $name, int $now): string
        {
            $time = \max(time_of($name) + 1, $now - $limit->window - 1);
            return name($time, false, number_of($name));
        }

        private function rename(string $directory, string $old, string $new): bool
        {
            $path = "$this->root/$directory/";
            return done(\rename($path . $old, $path . $new), $path . $old);
        }

        /** End a sweep whose sweeper may have died. @param list<string> $slots @param array<string> $marks */
        private function settle(string $directory, Limit $limit, array $slots, array $marks, int $now): void
        {
            $path = "$this->root/$directory";
            $numbers = \array_map($limit->slot(...), $slots);
            foreach ($marks as $mark) {
                $lowest = \substr($mark, 6);
                $number = $limit->slot($lowest);
                $isOld = static fn (string $name): bool => time_of($name) <= $now - $limit->window;
                if (\in_array($number, $numbers, true)) {
                    $isThere = \in_array($lowest, $slots, true);
                    if (!$isThere || $this->rename($directory, $lowest, self::freed($limit, $lowest, $now))) {
                        done(\unlink("$path/$mark"), "$path/$mark");
                    }
                } elseif (\count(\array_filter($slots, $isOld)) === \count($slots)
                    && (!$numbers || $number < \min($numbers))) {
                    foreach ([...$slots, $mark] as $name) {
                        done(\unlink("$path/$name"), "$path/$name");
                    }
                    remove_empty($path);
                } else {
                    $this->rename($directory, $mark, self::freed($limit, $lowest, $now));
                }
            }
        }

        /**
         * @param list<string> $slots
         * @return list<string>|null the newest name of each slot; null: another process changed one, list again
         */
        private function oneEach(string $directory, Limit $limit, array $slots, int $now): ?array
        {
            $names = [];
            foreach ($slots as $name) {
                $names[$limit->slot($name)][] = $name;
            }
            \ksort($names);
            $free = $now - $limit->window;
            $last = \end($slots);
            $wakes = \count($names) < \count($slots) && $last !== false && time_of($last) <= $free;
            $chosen = [];
            foreach ($names as $known) {
                $newest = \array_pop($known);
                if ((!$known && !$wakes) || time_of($newest) > $free) {
                    $chosen[] = $newest;
                    continue;
                }
                $later = self::freed($limit, $newest, $now);
                if ($this->rename($directory, $newest, $later)) {
                    foreach ($known as $older) {
                        $path = "$this->root/$directory/$older";
                        if (!done(\unlink($path), $path)) {
                            return null;
                        }
                    }
                    $newest = $later;
                } elseif ($wakes) {
                    return null;
                }
                $wakes = false;
                $chosen[] = $newest;
            }
            \sort($chosen, \SORT_STRING);
            return $chosen;
        }

        /** Claim what the hit needs in each view. False: a race was lost. @param list<View> $views */
        private function claim(array $views): bool
        {
            if (\count($views) > 1) {
                // First what can always be given back, then shorter windows.
                \usort($views, static fn (View $one, View $other): int =>
                    [!$one->limit->isReturnable, $one->limit->window]
                    <=> [!$other->limit->isReturnable, $other->limit->window]);
            }
            $last = $views[\count($views) - 1];
            $claims = [];
            try {
                foreach ($views as $view) {
                    $claim = $this->claimIn($view, $view !== $last);
                    if (!$claim) {
                        $this->giveBack($claims);
                        return false;
                    }
                    $claims[] = $claim;
                }
            } catch (StoreError $error) {
                try {
                    $this->giveBack($claims);
                } catch (StoreError) {
                    // the first error is reported
                }
                throw $error;
            }
            return true;
        }

        /** @return array{View, string, string, string}|null the view, the directory, the old and the new name */
        private function claimIn(View $view, bool $provisional): ?array
        {
            foreach ($view->free as [$directory, $name]) {
                try {
                    $new = $this->take($view, $directory, $name, $provisional);
                } catch (StoreError $error) {
                    $this->survive($error); // nobody knows whether it was done: try another slot
                    $new = null;
                }
                if ($new !== null) {
                    return [$view, $directory, $name, $new];
                }
                if (isset($view->idle[$directory])) {
                    return null; // another hit woke it, or a sweeper has it: look again
                }
            }
            return null;
        }

        private function take(View $view, string $directory, string $name, bool $provisional): ?string
        {
            $now = \max($view->now, clock());
            $new = $view->limit->taken($name, $now, $provisional);
            if (!$this->rename($directory, $name, $new)) {
                return null;
            }
            $late = clock();
            if ($late - $now > 10_000 && $late - $now > \intdiv($view->limit->window, 20)) {
                // The hit is admitted only now. With the earlier stamp it would be forgotten too soon.
                $again = $view->limit->taken($name, $late, $provisional);
                if ($this->rename($directory, $new, $again)) {
                    return $again;
                }
            }
            return $new;
        }

        /** @param list<array{View, string, string, string}> $claims */
        private function giveBack(array $claims): void
        {
            foreach (\array_reverse($claims) as [$view, $directory, $old, $new]) {
                try {
                    if ($this->rename($directory, $new, $view->limit->released($old, clock()))) {
                        continue;
                    }
                    for ($round = 0; $round < ROUNDS; $round++) {
                        $names = \array_filter(entries("$this->root/$directory"), is_name(...));
                        $name = $names ? \max($names) : '';
                        $undone = $names ? $view->limit->returned($name, $new, clock()) : null;
                        if ($undone === null || $this->rename($directory, $name, $undone)) {
                            break;
                        }
                    }
                } catch (StoreError $error) {
                    $this->survive($error); // to repeat that might admit one hit too many
                }
            }
        }

        /** If it is worthwhile to try again, wait and return. Otherwise throw the error. */
        public function survive(StoreError $error): void
        {
            $now = (int) (\hrtime(true) / 1000);
            $this->since = $this->faults ? $this->since : $now;
            $this->faults++;
            $mayPass = $error->symbol === 'EBADFD' || $error->symbol === 'ENOTCONN';
            if (!$mayPass || $this->faults > 5 || $now - $this->since > 250_000) {
                throw $error;
            }
            \usleep(1000 << ($this->faults - 1));
        }
    }

    function check_app(string $app): void
    {
        if (\preg_match('/\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z/', $app) !== 1) {
            throw new Mistake("app_id '" . \addcslashes(\substr($app, 0, 200), "\0..\37\177..\377")
                . "': expected 1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or a digit");
        }
    }

    /**
     * Count a hit of $app against the limits, or deny it and count nothing.
     *
     * $root is an existing directory. $newcomers bounds how many new clients the store takes in; '' does not.
     * Throws Mistake for bad arguments, and StoreError if the store fails.
     */
    function hit(
        string $root,
        string $limits,
        string $app,
        string $newcomers = '20/second burst 1000',
    ): Decision {
        check_app($app);
        $parsed = parse($limits);
        if ($newcomers !== '') {
            parse($newcomers);
        }
        return Warnings::during(static fn () => (new Attempt($root, $parsed, $app, $newcomers))->hit());
    }

    /** The decision that a hit would get now. Counts and furnishes nothing. Throws as hit() does. */
    function peek(string $root, string $limits, string $app): Decision
    {
        check_app($app);
        $parsed = parse($limits);
        return Warnings::during(static function () use ($root, $parsed, $app): Decision {
            $attempt = new Attempt($root, $parsed, $app, '');
            $views = [];
            $short = [];
            foreach ($parsed as $limit) {
                $view = $attempt->look($limit, false);
                $views[] = $view;
                if ($view->listed ? !$view->free : $limit->quota < 1) {
                    $short[] = $view;
                }
                if (!$view->listed) {
                    must_exist($root);
                }
            }
            $now = clock();
            if ($short) {
                return $attempt->deny($views, $short, $now);
            }
            $quotas = \array_map(static fn (View $view): array => $view->quota($now, 0), $views);
            return new Decision(true, 0.0, $quotas);
        });
    }

    // A request.

    \define('Limiter\UNSUPPORTED', [
        'NODES' => '1', 'RULES' => '', 'TRUSTED_PROXIES' => '', 'IPV6_PREFIX' => '64', 'HEADERS' => 'draft',
        'PROBLEM' => '0', 'JITTER' => '0', 'LOG' => 'stderr', 'LOG_LEVEL' => 'error', 'LOG_SAMPLE' => '1',
        'MAIL_TO' => '', 'MAIL_FROM' => '', 'SMTP' => '',
    ]);
    \define('Limiter\REASONS', [
        400 => 'Bad Request', 401 => 'Unauthorized', 429 => 'Too Many Requests', 500 => 'Internal Server Error',
    ]);

    /**
     * Returns if the hit is admitted, with the RateLimit header fields set. Otherwise answers 401, 429 or 500,
     * and ends the script. Call it before anything is printed. Returns null if nothing was counted.
     */
    function guard(): ?Decision
    {
        $status = 200;
        $decision = null;
        try {
            [$status, $decision] = judge();
        } catch (\Throwable $error) {
            \error_log('limiter: ' . \addcslashes(\substr($error->getMessage(), 0, 2000), "\0..\37\177..\377"));
            $status = 500;
            $admits = setting('ON_ERROR', 'deny') === 'admit' && $error instanceof StoreError;
            if ($admits || setting('MODE', 'enforce') === 'shadow') {
                return null;
            }
        }
        foreach ($decision->notes ?? [] as $note) {
            \error_log("limiter: $note");
        }
        if ($decision) {
            $seconds = static fn (float $time): int => \max(1, (int) \ceil($time));
            $policies = $standings = [];
            foreach ($decision->quotas as $it) {
                $policies[] = "\"{$it['name']}\";q={$it['quota']};w={$it['window']}";
                $standings[] = "\"{$it['name']}\";r={$it['remaining']};t={$seconds($it['reset'])}";
            }
            \header('RateLimit-Policy: ' . \implode(', ', $policies));
            \header('RateLimit: ' . \implode(', ', $standings));
            if ($status === 429) {
                $longest = \max(\array_column($decision->quotas, 'window'));
                $retry = \is_finite($decision->retryAfter) ? $seconds($decision->retryAfter) : $longest;
                \header("Retry-After: $retry");
            }
        }
        if ($status === 200) {
            return $decision;
        }
        \http_response_code($status);
        if ($status === 401) {
            \header('WWW-Authenticate: AppId realm="limiter"');
        }
        \header('Content-Type: application/json; charset=utf-8');
        \header('Cache-Control: no-store');
        if (($_SERVER['REQUEST_METHOD'] ?? '') !== 'HEAD') {
            echo '{"message": "' . REASONS[$status] . '"}';
        }
        exit;
    }

    function setting(string $name, string $default): string
    {
        // Apache's SetEnv, which an Action for PHP renames. A header of a client would be HTTP_LIMITER_...
        $value = $_SERVER["LIMITER_$name"] ?? $_SERVER["REDIRECT_LIMITER_$name"] ?? \getenv("LIMITER_$name");
        return \is_string($value) && $value !== '' ? $value : $default;
    }

    /** @return array{int, ?Decision} the status, and the decision if a hit was counted or denied */
    function judge(): array
    {
        foreach (UNSUPPORTED as $name => $default) {
            if (setting($name, $default) !== $default) {
                throw new Mistake("LIMITER_$name: PHP's client does not know this setting (put the guard or the map in front)");
            }
        }
        $mode = setting('MODE', 'enforce');
        $onError = setting('ON_ERROR', 'deny');
        if (!\in_array($mode, ['enforce', 'shadow', 'off'], true)) {
            throw new Mistake("LIMITER_MODE='$mode': expected 'enforce' or 'shadow' or 'off'");
        }
        if ($onError !== 'deny' && $onError !== 'admit') {
            throw new Mistake("LIMITER_ON_ERROR='$onError': expected 'deny' or 'admit'");
        }
        if ($mode === 'off') {
            return [200, null];
        }
        $app = app_id(setting('KEY', 'app_id'));
        [$status, $decision] = $app === null ? [401, null] : decide($app);
        if ($mode === 'enforce' || $status === 200) {
            return [$status, $mode === 'enforce' ? $decision : null];
        }
        \error_log("limiter: shadow: a request would have got $status " . REASONS[$status]);
        return [200, null];
    }

    /** @return array{int, ?Decision} */
    function decide(string $app): array
    {
        $roots = \explode(':', setting('ROOT', ''));
        foreach ($roots as $root) {
            if (!\str_starts_with($root, '/')) {
                throw new Mistake("LIMITER_ROOT='$root': expected an absolute path (PHP's client has no default store)");
            }
        }
        $score = static fn (string $root): string => \hash('sha256', "$root\0$app");
        \usort($roots, static fn (string $one, string $other): int => \strcmp($score($other), $score($one)));
        $limits = setting('LIMIT', '10/second');
        $newcomers = setting('NEWCOMERS', '20/second burst 1000');
        $newcomers = $newcomers === 'unlimited' ? '' : $newcomers;
        $register = setting('APPS', '');
        if ($register !== '') {
            [$own, $limits] = Warnings::during(static fn () => look_up($register, $app)) ?? [false, null];
            if ($limits === null) {
                return [401, null];
            }
            if ($limits === 'unlimited') {
                return [200, null];
            }
            $newcomers = $own ? '' : $newcomers;
        }
        $counted = setting('COUNTED', '');
        if ($counted !== '') {
            // The map in front of this page has counted something. See limiter/request/one_hit.py.
            $names = \array_map(static fn (Limit $it): string => $it->directory(0), parse($limits));
            $own = [setting('ROOT', ''), $register, $register === '' ? \implode(';', $names) : '', '1', setting('MODE', 'enforce'), '', $app];
            if (\substr(\hash('sha256', \implode("\n", $own)), 0, 16) === $counted) {
                return [200, null];
            }
        }
        $decision = hit($roots[0], $limits, $app, $newcomers);
        return [$decision->allowed ? 200 : 429, $decision];
    }

    /** @return array{bool, string}|null whether the register names this client, and its limits */
    function look_up(string $register, string $app): ?array
    {
        if ($register[0] !== '/') {
            throw new Mistake("LIMITER_APPS='$register': expected an absolute path");
        }
        foreach ([$app, '.default'] as $name) {
            $text = \readlink("$register/$name");
            if (done($text !== false, "$register/$name")) {
                // Behind an "@" are the networks of the register, which are for addresses alone.
                $text = $name === $app ? $text : \explode('@', $text)[0];
                return $text === '' ? null : [$name === $app, $text];
            }
        }
        \clearstatcache();
        if (!done(\stat("$register/.") !== false, $register)) {
            throw new StoreError('ENOENT', 'The register does not exist (make it, or correct LIMITER_APPS)', $register);
        }
        return null;
    }

    /** The app_id of this request: the one value of the parameter, in whatever spelling. Null: 401. */
    function app_id(string $key): ?string
    {
        if (\preg_match('/\A[A-Za-z0-9._-]*[A-Za-z0-9][A-Za-z0-9._-]*\z/', $key) !== 1) {
            throw new Mistake("LIMITER_KEY='$key': PHP's client knows parameters alone (put the guard or the map in front)");
        }
        $folded = \str_replace('.', '_', \strtolower($key));
        $like = \ltrim($folded, '_');
        $found = [];
        foreach (\explode('&', \str_replace(';', ';&;', $_SERVER['QUERY_STRING'] ?? '')) as $pair) {
            [$name, $value] = [...\explode('=', $pair, 2), ''];
            if (\strtolower($name) === $folded || resembles($name, $like)) {
                $found[] = [$name, $value];
            }
        }
        if (\count($found) !== 1 || \rawurldecode($found[0][0]) !== $key) {
            return null;
        }
        $app = \rawurldecode($found[0][1]);
        return \preg_match('/\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z/', $app) === 1 ? $app : null;
    }

    /** Whether some application may treat this name as the parameter's: see limiter/request/key.py. */
    function resembles(string $name, string $like): bool
    {
        $plain = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-';
        if (\strlen($name) < \strlen($like) || \strspn($name, $plain) === \strlen($name)) {
            return false;
        }
        $name = \strtolower(\rawurldecode(\str_replace('%u00', '%', $name)));
        $odd = '';
        foreach (\str_split($name) as $byte) {
            $odd .= \str_contains($plain, $byte) ? '' : $byte;
        }
        $name = \substr($name, \strspn($name, $odd . '_'));
        $alike = $odd === '' ? $name : \strtr($name, $odd, \str_repeat('_', \strlen($odd)));
        $after = \substr($name, \strlen($like), 1);
        return \str_starts_with($alike, $like) && ($after === '' || \str_contains($odd, $after));
    }
}
