# frozen_string_literal: true

# Access Limiter for Ruby: at most so many requests in each window for each client, exact over all processes.
#
#     require 'limiter'
#     Limiter.guard
#
# It answers 401, 429 or 500 itself and ends the script, or prints the RateLimit header fields, which the
# script's own follow. It shares its store with the other clients of store format 1 (docs/store-format.md). It
# needs Ruby 2.7, and no gem.
#
# LIMITER_ROOT must be set. LIMITER_LIMIT, _NEWCOMERS, _APPS, _KEY, _MODE and _ON_ERROR are as in
# docs/settings.md. Any other setting that is not at its default gets a 500 that says so: nothing is ignored.
# The one exception: Ruby cannot see how many inodes are free, so newcomers are refused only when a call fails.
#
# For your own purposes: Limiter.hit(root, '10/minute', name) and Limiter.peek(...). Both return a Decision.
# They raise StoreError, which has a symbol (errno's name) and a path, or Mistake.
module Limiter
  SECOND = 1_000_000
  LONGEST = 3660 * 86_400
  FEW = 16 # slots in the first directory
  SEGMENT = 64 # slots in each of the others
  ROUNDS = 1000
  LISTINGS = 4
  NAME = /\A[0-9]{10}\.[0-9]{6}[-~](?:0|[1-9][0-9]{0,17})\z/.freeze
  APP = /\A[A-Za-z0-9][A-Za-z0-9._-]{0,63}\z/.freeze

  # The store failed.
  class StoreError < StandardError
    attr_reader :symbol, :path

    def initialize(symbol, why, path)
      @symbol = symbol
      @path = path
      super("[#{symbol}] #{why}: #{path}")
    end
  end

  # A setting or an argument is wrong.
  class Mistake < ArgumentError
  end

  # The answer to a hit. retry_after: seconds until the same hit is allowed, 0 if it is, infinite if never.
  # quotas: for each limit a hash of its name, quota, window (seconds), remaining and reset (seconds).
  Decision = Struct.new(:allowed, :retry_after, :quotas, :notes)

  # Calls to the file system.
  module Files
    GONE = %w[ENOENT ESTALE].freeze

    module_function

    # What the block returns. Raises StoreError.
    def call(path)
      yield
    rescue SystemCallError => e
      raise StoreError.new(e.class.name.split('::').last, e.message.split(' @').first, path)
    end

    # Whether the call in the block has succeeded. False: what it was for is gone.
    def done(path, &block)
      call(path, &block)
      true
    rescue StoreError => e
      raise unless GONE.include?(e.symbol)

      false
    end

    # The entries of a directory, sorted; none if there is no such directory.
    def entries(path)
      found = []
      done(path) { found = Dir.children(path) }
      found.sort
    end

    def remove_empty(path)
      done(path) { Dir.rmdir(path) }
      true
    rescue StoreError => e
      raise unless %w[EEXIST ENOTEMPTY EMLINK].include?(e.symbol)

      false
    end

    def must_exist(root)
      return if done(root) { File.stat("#{root}/.") }

      raise StoreError.new('ENOENT', 'The store does not exist (make it, or set LIMITER_ROOT)', root)
    end

    def create(path)
      call(path) { File.open(path, File::WRONLY | File::CREAT | File::EXCL).close }
    end

    # Let all use this who may use the store, whoever makes it.
    def share(path, home, mode)
      made = call(path) { File.stat(path) }
      owner = Process.euid.zero? ? home.uid : made.uid
      call(path) do
        File.chmod(mode, path) if (made.mode & 0o7777) != mode
        File.chown(owner, home.gid, path) if [made.uid, made.gid] != [owner, home.gid]
      end
    rescue StoreError => e
      raise unless %w[EPERM EACCES].include?(e.symbol)
    end
  end

  # Names: SECONDS.MICROSECONDS-NUMBER. Times are microseconds since the epoch.
  module Name
    module_function

    def stamp(time)
      digits = time.to_s.rjust(16, '0')
      "#{digits[0, 10]}.#{digits[10..]}"
    end

    def time(name)
      (name[0, 10] + name[11, 6]).to_i
    end

    def number(name)
      name[18..].to_i
    end

    def make(time, provisional, number)
      "#{stamp(time)}#{provisional ? '~' : '-'}#{number}"
    end

    def provisional?(name)
      name[17] == '~'
    end
  end

  def self.clock
    Process.clock_gettime(Process::CLOCK_REALTIME, :microsecond)
  end

  # A limit of one kind: sliding, as it is. Names are sorted slots of one directory, at least one.
  class Limit
    attr_accessor :policy
    attr_reader :quota, :window, :name, :segments

    def initialize(quota, window)
      @quota = quota
      @window = window
      @policy = ''
      @name = "#{quota}-per-#{window / SECOND}s"
      @segments = (quota + SEGMENT - 1) / SEGMENT + (quota > FEW ? 1 : 0)
    end

    def returnable?
      true
    end

    def label
      @policy.empty? ? @name : @policy
    end

    def directory(segment)
      name = @policy.empty? ? @name : "#{@policy}=#{@name}"
      segment.zero? ? name : "#{name}.#{segment}"
    end

    # The numbers of the slots of a directory.
    def numbers(segment)
      first = segment == 1 ? FEW : SEGMENT * [segment - 1, 0].max
      (first...[segment.zero? ? FEW : SEGMENT * segment, @quota].min)
    end

    def slot(name)
      Name.number(name)
    end

    # The names that a hit may claim, the hits that count, and the microseconds until the first no longer does.
    def look(names, now)
      first = Name.stamp([1, now - @window + 1].max)
      last = Name.stamp(now + @window + 1)
      busy, free = names.partition { |name| name >= first && name < last }
      [free, busy.size, busy.empty? ? 0 : Name.time(busy.first) + @window - now]
    end

    def taken(name, now, provisional)
      Name.make(now, provisional, Name.number(name))
    end

    # Microseconds until a hit counted now no longer counts, if it is the only one.
    def expiry(_now)
      @window
    end

    # The name that gives back a slot that was claimed and is not needed.
    def released(old, now)
      [Name.make(Name.time(old) + 1, false, slot(old)), free(old, now)].max
    end

    # The name that undoes a claim, on which others have built name; nil if there is nothing to undo.
    def returned(_name, _claim, _now)
      nil
    end

    # A later name of a free slot: also free, but not idle.
    def freed(name, now)
      Name.make([Name.time(name) + 1, now - @window - 1].max, false, Name.number(name))
    end

    private

    def free(old, now)
      Name.make([0, now - @window - 1].max, false, slot(old))
    end
  end

  # A limit whose whole state is one name.
  class Single < Limit
    def initialize(quota, window)
      super
      @segments = 1
    end

    def returnable?
      false
    end

    def numbers(_segment)
      (0...1)
    end

    def slot(_name)
      0
    end

    def released(old, now)
      [old, free(old, now)].max
    end
  end

  # At most quota hits in each calendar window, counted from the epoch.
  class Fixed < Single
    def initialize(quota, window)
      super
      @name += '-fixed'
    end

    def look(names, now)
      time, used = state(names.last, now)
      [used < @quota ? [names.last] : [], used, used.positive? ? ending(time) - now : 0]
    end

    def taken(name, now, provisional)
      time, used = state(name, now)
      Name.make(time, provisional || (used.positive? && Name.provisional?(name)), used + 1)
    end

    def expiry(now)
      ending(now) - now
    end

    def returned(name, claim, _now)
      time = Name.time(name)
      return nil if time / @window != Name.time(claim) / @window

      Name.make(time, Name.provisional?(name), Name.number(name) - 1)
    end

    private

    # The time to count at, and the hits so far in its window.
    def state(name, now)
      last = Name.time(name)
      return [now, 0] if last > now + @window

      time = [last, now].max
      [time, last / @window == time / @window ? Name.number(name) : 0]
    end

    def ending(time)
      (time / @window + 1) * @window
    end
  end

  # A bucket of quota tokens, into which rate flow in each period.
  class Burst < Single
    def initialize(rate, period, quota)
      super(quota, -(-period * quota / rate))
      @rate = rate
      @period = period
      @name = "#{rate}-per-#{period / SECOND}s-burst-#{quota}"
    end

    def look(names, now)
      debt = debt(names.last, now)
      used = [-(-debt / @period), @quota].min
      free = debt + @period <= @quota * @period ? [names.last] : []
      [free, used, used.positive? ? -(-(debt - (used - 1) * @period) / @rate) : 0]
    end

    def taken(name, now, provisional)
      debt = debt(name, now)
      mark = provisional || (debt.positive? && Name.provisional?(name))
      at(now * @rate + debt + @period, mark)
    end

    def expiry(_now)
      -(-@period / @rate)
    end

    def returned(name, claim, now)
      return nil if now >= Name.time(claim)

      at(Name.time(name) * @rate + Name.number(name) - @period, Name.provisional?(name))
    end

    private

    # How much the bucket lacks until it is full, in units of 1/rate of a microsecond.
    def debt(name, now)
      time = Name.time(name)
      return 0 if time > now + @window + @period

      [0, (time - now) * @rate + Name.number(name)].max
    end

    def at(units, provisional)
      time, rest = units.divmod(@rate)
      Name.make(time, provisional, rest)
    end
  end

  # The notation of limits: docs/limits.md.
  module Notation
    UNITS = {
      1 => %w[second seconds sec s], 60 => %w[minute minutes min m], 3600 => %w[hour hours h],
      86_400 => %w[day days d], 2_592_000 => %w[month months], 31_104_000 => %w[year years]
    }.flat_map { |seconds, words| words.map { |word| [word, seconds] } }.to_h.freeze
    PART = %r{
      \A[ \t]*+(?:([a-z][a-z0-9-]{0,31})[ \t]*+=[ \t]*+)?([0-9]{1,15})[ \t]*+(?:/|[Pp][Ee][Rr])[ \t]*+
      ([0-9]{1,15})?[ \t]*+([A-Za-z]++)[ \t]*+(?:((?i:fixed))|(?i:burst)[ \t]*+([0-9]{1,15}))?[ \t]*+\z
    }x.freeze

    module_function

    # The limits that the text names, in its order. Raises Mistake.
    def parse(text)
      limits = []
      parts = text.empty? ? [''] : text.split(/[;,|]/, -1)
      parts.each do |part|
        limit = limit_of(part) { |why| raise Mistake, "limit '#{text[0, 200]}': #{why}" }
        same = limits.any? do |it|
          it.directory(0) == limit.directory(0) || (!limit.policy.empty? && it.policy == limit.policy)
        end
        raise Mistake, "limit '#{text[0, 200]}': expected a limit not yet given" if same

        limits << limit
      end
      limits
    end

    def limit_of(part, &block)
      found = PART.match(part) || yield("expected limits such as 10/second, found '#{part}'")
      policy, count, multiple, unit, fixed, burst = found.captures
      seconds = UNITS[unit.downcase] || yield("expected a unit, found '#{unit}'")
      count = count.to_i
      window = (multiple || 1).to_i * seconds
      yield('expected a window from 1 second to 3660 days') unless (1..LONGEST).cover?(window)
      yield('expected a capacity of at least 1') if burst&.to_i&.zero?
      limit = kind_of(count, window, fixed, burst, &block)
      limit.policy = policy || ''
      limit
    end

    def kind_of(count, window, fixed, burst)
      if burst && count.positive?
        yield('expected a bucket that fills within 3660 days') if window * burst.to_i > LONGEST * count
        return Burst.new(count, window * SECOND, burst.to_i)
      end
      return Fixed.new(count, window * SECOND) if fixed && count.positive?

      yield('expected a sliding limit of at most 10000 hits') if count > 10_000
      Limit.new(count, window * SECOND)
    end
  end

  # What one look at one limit shows.
  class View
    attr_accessor :used, :next, :lost, :complete
    attr_reader :limit, :listed, :free, :idle, :now

    def initialize(limit)
      @limit = limit
      @listed = {}
      @free = [] # each directory and name that the hit may claim, in order
      @idle = []
      @now = @used = @next = @lost = 0
      @complete = false
    end

    # Look at one more listed directory. Returns whether to look at the next.
    def add(directory, names, now)
      @listed[directory] = names
      free, used, first = @limit.look(names, now)
      @next = first if used.positive? && (@used.zero? || first < @next)
      @now = now
      @used += used
      take_free(directory, free, used) if @free.empty? && !free.empty?
      @free.empty? || (@limit.window >= 60 * SECOND && unknown.positive?)
    end

    # How many hits may count in directories that were not looked at.
    def unknown
      oldest = @listed.values.map(&:first).min
      return 0 if @complete || oldest.nil? || oldest <= Name.stamp([@now - 2 * @limit.window, 0].max)

      (@listed.size...@limit.segments).sum { |segment| @limit.numbers(segment).size }
    end

    def quota(now, cost)
      reset = @used.positive? || cost.zero? ? @next : @limit.expiry(@now)
      remaining = @limit.quota - @used - @lost - unknown - cost
      {
        name: @limit.label, quota: @limit.quota, window: (@limit.window + SECOND - 1) / SECOND,
        remaining: [0, remaining].max, reset: [0, @now + reset - now].max / 1e6
      }
    end

    private

    def take_free(directory, free, used)
      if used.positive?
        free = free.rotate(@now % free.size) # contenders look at different moments
      else
        @idle << directory
        free = free.sort_by { |name| @limit.slot(name) }
      end
      @free = free.map { |name| [directory, name] }
    end
  end

  # Keeps the directories of a store in order: makes them, ends sweeps, and tells slots from other entries.
  class Directory
    # attempt: for whom; view: gets what was found.
    def initialize(attempt, view, segment)
      @attempt = attempt
      @view = view
      @limit = view.limit
      @segment = segment
      @name = "#{attempt.app}@#{@limit.directory(segment)}"
      @path = "#{attempt.root}/#{@name}"
    end

    attr_reader :name, :path

    # The sorted slots, one for each that the directory has; none: there is no room.
    def complete(found)
      numbers = @limit.numbers(@segment)
      listings = now = 0
      ROUNDS.times do
        slots = found.select { |it| slot?(it) }
        marks = found.select { |it| it.start_with?('.gone-') && slot?(it[6..]) }
        seen = slots.map { |it| @limit.slot(it) }.uniq.size
        if found.empty?
          fresh = fresh_names(numbers)
          return fresh if @attempt.furnish?(@segment, self, fresh)
          return [] if @attempt.refused
        elsif !marks.empty? && listings.positive?
          settle(slots, marks, now)
        elsif slots.size == numbers.size && seen == numbers.size
          return slots
        elsif listings == LISTINGS
          chosen = one_each(slots, now)
          break if chosen == []

          if chosen
            @view.lost += numbers.size - chosen.size
            return chosen
          end
        else
          listings += 1
        end
        now = Limiter.clock
        found = Files.entries(@path)
      end
      why = "This limit's directory has no slots (remove it: the next hit makes it anew)"
      raise StoreError.new('ENOENT', why, @path)
    end

    # Returns whether this call made the directory.
    def furnish(names)
      return false unless Files.remove_empty(@path)

      aside = "#{@attempt.root}/.new-#{Random.urandom(8).unpack1('H*')}"
      lost = %w[EEXIST ENOENT ESTALE]
      begin
        fill(aside, names)
        lost += %w[ENOTEMPTY EMLINK]
        Files.call(@path) { File.rename(aside, @path) }
      rescue StoreError => e
        discard(aside, names)
        raise unless lost.include?(e.symbol)

        Files.must_exist(@attempt.root)
        return false
      end
      # On GlusterFS, a copy that has just come back makes a rename succeed that all others refuse.
      return true unless Files.done(aside) { File.lstat(aside) }

      discard(aside, names)
      false
    end

    def rename(old, new)
      Files.done("#{@path}/#{old}") { File.rename("#{@path}/#{old}", "#{@path}/#{new}") }
    end

    def unlink(name)
      Files.done("#{@path}/#{name}") { File.unlink("#{@path}/#{name}") }
    end

    private

    def slot?(name)
      NAME.match?(name) && @limit.numbers(@segment).cover?(@limit.slot(name))
    end

    def fresh_names(numbers)
      time = [0, Limiter.clock - 2 * @limit.window - 1].max
      numbers.map { |number| Name.make(time, false, number) }.sort
    end

    def fill(aside, names)
      home = Files.call(@attempt.root) { File.stat("#{@attempt.root}/.") }
      mode = home.mode & 0o2777
      Files.call(aside) { Dir.mkdir(aside, mode) }
      first = "#{aside}/#{names.first}"
      Files.create(first)
      Files.share(first, home, mode & 0o666)
      names.drop(1).each { |name| link(first, "#{aside}/#{name}") }
      Files.share(aside, home, mode)
    end

    def link(first, path)
      Files.call(path) { File.link(first, path) }
    rescue StoreError => e
      raise if %w[EEXIST ENOENT ESTALE].include?(e.symbol)

      Files.create(path) # a file system without hard links
    end

    # Errors are ignored: the one that led here is reported.
    def discard(aside, names)
      [*names.map { |name| "#{aside}/#{name}" }, nil].each do |path|
        path ? File.unlink(path) : Dir.rmdir(aside)
      rescue SystemCallError
        next
      end
    end

    # End a sweep whose sweeper may have died.
    def settle(slots, marks, now)
      marks.each do |mark|
        lowest = mark[6..]
        number = @limit.slot(lowest)
        if slots.any? { |name| @limit.slot(name) == number }
          unlink(mark) if !slots.include?(lowest) || rename(lowest, @limit.freed(lowest, now))
        elsif slots.all? { |name| Name.time(name) <= now - @limit.window && @limit.slot(name) > number }
          [*slots, mark].each { |name| unlink(name) }
          Files.remove_empty(@path)
        else
          rename(mark, @limit.freed(lowest, now))
        end
      end
    end

    # The newest name of each slot. Nil: another process changed one, list again.
    def one_each(slots, now)
      names = slots.group_by { |name| @limit.slot(name) }
      free = now - @limit.window
      wakes = names.size < slots.size && Name.time(slots.last) <= free
      chosen = names.sort.map do |_, (*older, newest)|
        next newest if (older.empty? && !wakes) || Name.time(newest) > free

        later = @limit.freed(newest, now)
        if rename(newest, later)
          return nil unless older.all? { |name| unlink(name) }

          newest = later
        elsif wakes
          return nil
        end
        wakes = false
        newest
      end
      chosen.sort
    end
  end

  # The looks and claims of one hit.
  class Attempt
    attr_reader :root, :app, :refused

    def initialize(root, limits, app, newcomers)
      @root = root
      @limits = limits
      @app = app
      @newcomers = newcomers
      @notes = []
      @faults = 0
    end

    def hit
      return decision(false, Float::INFINITY, views, 0, 0) if @limits.any? { |limit| limit.quota < 1 }

      ROUNDS.times do
        found = round
        return found if found
      rescue StoreError => e
        survive(e)
      end
      raise StoreError.new('EBUSY', 'Other hits claimed every free slot first', "#{@root}/#{@app}")
    end

    # The decision that a hit would get. Counts and furnishes nothing.
    def peek
      seen = @limits.map { |limit| look(limit, false) }
      Files.must_exist(@root) if seen.any? { |view| view.listed.empty? }
      short = seen.select { |view| view.listed.empty? ? view.limit.quota < 1 : view.free.empty? }
      now = Limiter.clock
      short.empty? ? decision(true, 0.0, seen, now, 0) : deny(seen, short, now)
    end

    # Whether this call made the directory. If there is no room, sets the denial, refused.
    def furnish?(segment, directory, names)
      is_newcomer = segment.zero? && !@newcomers.empty?
      wait = 60.0
      why = 'the file system is full'
      begin
        count = is_newcomer ? count(@newcomers, '.newcomers') : nil
        return directory.furnish(names) if count.nil? || count.allowed

        wait = count.retry_after
        why = "LIMITER_NEWCOMERS is #{@newcomers}"
      rescue StoreError => e
        is_full = %w[ENOSPC EDQUOT EMLINK].include?(e.symbol)
        raise if !is_full || (segment.zero? && !is_newcomer)
      end
      refuse(segment, wait, why)
      false
    end

    private

    # The decision; nil: a race was lost, look again.
    def round
      seen = @limits.map do |limit|
        view = look(limit, true)
        return @refused if @refused

        view
      end
      short = seen.select { |view| view.free.empty? }
      now = seen.last.now
      return deny(seen, short, now) unless short.empty?

      claim(seen) ? decision(true, 0.0, seen, now, 1) : nil
    end

    def views
      @limits.map { |limit| View.new(limit) }
    end

    def decision(allowed, retry_after, views, now, cost)
      Decision.new(allowed, retry_after, views.map { |view| view.quota(now, cost) }, @notes)
    end

    def deny(views, short, now)
      ending = [now + 1, *short.map { |view| view.now + view.next }].max
      decision(false, (ending - now) / 1e6, views, now, 0)
    end

    # List the segments until there is room or none is left. Missing ones are furnished, if it may.
    def look(limit, furnishes)
      view = View.new(limit)
      limit.segments.times do |segment|
        directory = Directory.new(self, view, segment)
        found = Files.entries(directory.path)
        break if found.empty? && (!view.free.empty? || !furnishes)

        names = directory.complete(found)
        return view if names.empty? || !view.add(directory.name, names, Limiter.clock)
      end
      view.complete = true
      return view if limit.segments == 1 || view.listed.empty?

      # The first segments may have gained room while the last were listed: look at all for one time.
      again = View.new(limit)
      again.lost = view.lost
      again.complete = true
      view.listed.each { |directory, names| again.add(directory, names, view.now) }
      again
    end

    def refuse(segment, wait, why)
      full = views
      full.each do |view|
        view.used = view.limit.quota
        view.next = wait.infinite? ? 0 : (wait * 1e6).to_i
      end
      what = segment.zero? ? 'new clients' : 'more hits of known clients'
      @notes << "#{@root}: #{what} are refused (429): #{why}" if report?
      @refused = decision(false, wait, full, 0, 0)
    end

    def report?
      count('1/minute', '.refusals').allowed
    rescue StoreError
      true # the store is so full that not even this can be counted
    end

    # Count something else in the same store, whatever room there is.
    def count(limits, app)
      Attempt.new(@root, Notation.parse(limits), app, '').hit
    end

    # Claim what the hit needs in each view. False: a race was lost, and nothing is claimed.
    def claim(views)
      # First what can always be given back, then shorter windows.
      views = views.sort_by.with_index { |view, nth| [view.limit.returnable? ? 0 : 1, view.limit.window, nth] }
      claims = []
      begin
        views.each do |view|
          claim = claim_in(view, !view.equal?(views.last))
          claims << claim if claim
          break unless claim
        end
      rescue StoreError => e
        begin
          give_back(claims)
        rescue StoreError
          raise e # the first error is reported
        end
        raise
      end
      return true if claims.size == views.size

      give_back(claims)
      false
    end

    def claim_in(view, provisional)
      view.free.each do |directory, name|
        new = take_or_survive(view, directory, name, provisional)
        return [view, directory, name, new] if new
        return nil if view.idle.include?(directory) # another hit woke it, or a sweeper has it: look again
      end
      nil
    end

    def take_or_survive(view, directory, name, provisional)
      take(view, directory, name, provisional)
    rescue StoreError => e
      survive(e) # nobody knows whether it was done: try another slot
      nil
    end

    def take(view, directory, name, provisional)
      now = [view.now, Limiter.clock].max
      new = view.limit.taken(name, now, provisional)
      return nil unless rename(directory, name, new)

      late = Limiter.clock
      if late - now > 10_000 && late - now > view.limit.window / 20
        # The hit is admitted only now. With the earlier stamp it would be forgotten too soon.
        again = view.limit.taken(name, late, provisional)
        return again if rename(directory, new, again)
      end
      new
    end

    def rename(directory, old, new)
      path = "#{@root}/#{directory}/"
      Files.done(path + old) { File.rename(path + old, path + new) }
    end

    def give_back(claims)
      claims.reverse_each do |view, directory, old, new|
        undo(view, directory, old, new)
      rescue StoreError => e
        survive(e) # to repeat it might admit one hit too many
      end
    end

    def undo(view, directory, old, new)
      return if rename(directory, new, view.limit.released(old, Limiter.clock))

      ROUNDS.times do
        name = Files.entries("#{@root}/#{directory}").grep(NAME).last
        undone = name && view.limit.returned(name, new, Limiter.clock)
        break if undone.nil? || rename(directory, name, undone)
      end
    end

    # If it is worthwhile to try again, wait and return. Otherwise raise the error.
    def survive(error)
      now = Process.clock_gettime(Process::CLOCK_MONOTONIC)
      @since ||= now
      @faults += 1
      may_pass = %w[EBADFD ENOTCONN].include?(error.symbol)
      raise error if !may_pass || @faults > 5 || now - @since > 0.25

      sleep(0.001 * 2**(@faults - 1))
    end
  end

  # A request to a CGI script.
  class Request
    UNSUPPORTED = {
      'NODES' => '1', 'RULES' => '', 'TRUSTED_PROXIES' => '', 'IPV6_PREFIX' => '64', 'HEADERS' => 'draft',
      'PROBLEM' => '0', 'JITTER' => '0', 'LOG' => 'stderr', 'LOG_LEVEL' => 'error', 'LOG_SAMPLE' => '1',
      'MAIL_TO' => '', 'MAIL_FROM' => '', 'SMTP' => ''
    }.freeze
    REASONS = { 401 => 'Unauthorized', 429 => 'Too Many Requests', 500 => 'Internal Server Error' }.freeze
    PLAIN = /[A-Za-z0-9_-]/n.freeze

    # environ: CGI variables, and the settings.
    def initialize(environ)
      @environ = environ
    end

    # The status, and the decision if a hit was counted or denied.
    def answer
      judge
    rescue StandardError => e
      log(e.message)
      admits = e.is_a?(StoreError) && setting('ON_ERROR', 'deny') == 'admit'
      [admits || setting('MODE', 'enforce') == 'shadow' ? 200 : 500, nil]
    end

    # The header fields of an answer, as pairs.
    def fields(status, decision)
      fields = decision ? standings(decision) : []
      fields << ['Retry-After', retry_after(decision).to_s] if status == 429
      fields << ['WWW-Authenticate', 'AppId realm="limiter"'] if status == 401
      return fields if status == 200

      fields << ['Content-Type', 'application/json; charset=utf-8'] << %w[Cache-Control no-store]
    end

    def body(status)
      @environ['REQUEST_METHOD'] == 'HEAD' ? '' : %({"message": "#{REASONS[status]}"})
    end

    # The one value of the parameter, in whatever spelling. Nil: 401.
    def app_id(key)
      unless /\A[A-Za-z0-9._-]*[A-Za-z0-9][A-Za-z0-9._-]*\z/.match?(key)
        raise Mistake, "LIMITER_KEY='#{key}': Ruby's client knows parameters alone (put the guard or the map in front)"
      end

      found = given(key)
      return nil if found.size != 1 || unquote(found[0][0]) != key

      app = unquote(found[0][1])
      APP.match?(app) ? app : nil
    end

    def log(text)
      warn("limiter: #{text.b[0, 2000].gsub(/[^ -~]/n) { |byte| format('\\x%02x', byte.ord) }}")
    end

    private

    def setting(name, default)
      value = @environ["LIMITER_#{name}"]
      value.nil? || value.empty? ? default : value
    end

    def judge
      refuse_what_is_not_supported
      mode = setting('MODE', 'enforce')
      return [200, nil] if mode == 'off' || /\A[45]/.match?(@environ['REDIRECT_STATUS'] || '')

      app = app_id(setting('KEY', 'app_id'))
      status, decision = app ? decide(app) : [401, nil]
      decision&.notes&.each { |note| log(note) }
      return [status, decision] if mode == 'enforce'

      log("shadow: a request would have got #{status} #{REASONS[status]}") if status != 200
      [200, nil]
    end

    def refuse_what_is_not_supported
      UNSUPPORTED.each do |name, default|
        next if setting(name, default) == default

        raise Mistake, "LIMITER_#{name}: Ruby's client does not know this setting (put the guard or the map in front)"
      end
      { 'MODE' => %w[enforce shadow off], 'ON_ERROR' => %w[deny admit] }.each do |name, words|
        value = setting(name, words.first)
        expected = words.map { |word| "'#{word}'" }.join(' or ')
        raise Mistake, "LIMITER_#{name}='#{value}': expected #{expected}" unless words.include?(value)
      end
    end

    def decide(app)
      limits = setting('LIMIT', '10/second')
      newcomers = setting('NEWCOMERS', '20/second burst 1000')
      newcomers = '' if newcomers == 'unlimited'
      register = setting('APPS', '')
      unless register.empty?
        is_own, limits = look_up(register, app)
        return [401, nil] if limits.nil?
        return [200, nil] if limits == 'unlimited'

        newcomers = '' if is_own
      end
      root = root_of(app)
      return [200, nil] if counted?(register, limits, app)

      decision = Limiter.hit(root, limits, app, newcomers)
      [decision.allowed ? 200 : 429, decision]
    end

    def root_of(app)
      roots = setting('ROOT', ' ').split(':', -1)
      roots.each do |root|
        next if root.start_with?('/')

        raise Mistake, "LIMITER_ROOT='#{root.strip}': expected an absolute path (Ruby's client has no default store)"
      end
      return roots.first if roots.size == 1

      require 'digest'
      roots.max_by { |root| Digest::SHA256.hexdigest("#{root}\0#{app}") }
    end

    # Whether the map in front of this script has counted the same: see limiter/request/one_hit.py.
    def counted?(register, limits, app)
      counted = setting('COUNTED', '')
      return false if counted.empty?

      require 'digest'
      names = register.empty? ? Notation.parse(limits).map { |limit| limit.directory(0) }.join(';') : ''
      own = [setting('ROOT', ''), register, names, '1', setting('MODE', 'enforce'), '', app]
      Digest::SHA256.hexdigest(own.join("\n"))[0, 16] == counted
    end

    # Whether the register names this client, and its limits; nil if it is unknown.
    def look_up(register, app)
      raise Mistake, "LIMITER_APPS='#{register}': expected an absolute path" unless register.start_with?('/')

      [app, '.default'].each do |name|
        text = nil
        next unless Files.done("#{register}/#{name}") { text = File.readlink("#{register}/#{name}") }

        # Behind an "@" are the networks of the register, which are for addresses alone.
        text = text.sub(/@.*/m, '') unless name == app
        return text.empty? ? nil : [name == app, text]
      end
      return nil if Files.done(register) { File.stat("#{register}/.") }

      raise StoreError.new('ENOENT', 'The register does not exist (make it, or correct LIMITER_APPS)', register)
    end

    def standings(decision)
      policies = decision.quotas.map { |it| %("#{it[:name]}";q=#{it[:quota]};w=#{it[:window]}) }
      standings = decision.quotas.map { |it| %("#{it[:name]}";r=#{it[:remaining]};t=#{whole(it[:reset])}) }
      [['RateLimit-Policy', policies.join(', ')], ['RateLimit', standings.join(', ')]]
    end

    def retry_after(decision)
      retry_after = decision.retry_after
      retry_after.infinite? ? decision.quotas.map { |it| it[:window] }.max : whole(retry_after)
    end

    def whole(seconds)
      [1, seconds.ceil].max
    end

    # The parameters whose name some application may treat as this key's, not decoded.
    def given(key)
      folded = key.downcase.tr('.', '_')
      like = folded.sub(/\A_+/, '')
      pairs = (@environ['QUERY_STRING'] || '').b.gsub(';', ';&;').split('&', -1)
      pairs = pairs.map { |pair| [*pair.split('=', 2), '', ''].first(2) }
      pairs.select do |name, _|
        name.size >= like.size && (name.downcase(:ascii) == folded || resembles?(name, like))
      end
    end

    # Whether some application may treat this name as the parameter's: see limiter/request/key.py.
    def resembles?(name, like)
      return false if name.each_char.all? { |byte| PLAIN.match?(byte) }

      name = unquote(name.gsub('%u00', '%')).downcase(:ascii)
      odd = name.each_char.reject { |byte| PLAIN.match?(byte) }
      name = name.each_char.drop_while { |byte| byte == '_' || odd.include?(byte) }.join
      alike = name.each_char.map { |byte| odd.include?(byte) ? '_' : byte }.join
      after = name[like.size]
      alike.start_with?(like) && (after.nil? || odd.include?(after))
    end

    def unquote(text)
      text.b.gsub(/%([0-9A-Fa-f]{2})/n) { Regexp.last_match(1).hex.chr }
    end
  end

  def self.check(app)
    return if APP.match?(app)

    expected = "1 to 64 letters, digits, '.', '_' and '-', beginning with a letter or a digit"
    raise Mistake, "app_id #{app[0, 200].inspect}: expected #{expected}"
  end

  # Count a hit of this app against the limits, or deny it and count nothing.
  #
  # root is an existing directory. newcomers bounds how many new clients the store takes in; '' does not.
  def self.hit(root, limits, app, newcomers = '20/second burst 1000')
    check(app)
    Notation.parse(newcomers) unless newcomers.empty?
    Attempt.new(root, Notation.parse(limits), app, newcomers).hit
  end

  # The decision that a hit would get now. Counts and furnishes nothing.
  def self.peek(root, limits, app)
    check(app)
    Attempt.new(root, Notation.parse(limits), app, '').peek
  end

  # Return if the hit is admitted, after the RateLimit header fields were printed. Otherwise answer 401, 429 or
  # 500, and end the script. Call it before anything is printed. Returns the decision, nil if nothing was counted.
  def self.guard(environ = ENV)
    request = Request.new(environ)
    status, decision = request.answer
    lines = request.fields(status, decision).map { |name, value| "#{name}: #{value}\n" }.join
    $stdout.sync = true
    if status == 200
      $stdout.write(lines)
      return decision
    end
    $stdout.write("Status: #{status} #{Request::REASONS[status]}\n#{lines}\n#{request.body(status)}")
    # Under mod_cgid the answer may be lost while a body is unread.
    64.times { break unless environ['CONTENT_LENGTH'].to_i.positive? && $stdin.read(65_536) }
    exit
  end
end
