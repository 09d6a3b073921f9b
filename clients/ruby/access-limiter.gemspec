# frozen_string_literal: true

Gem::Specification.new do |spec|
  spec.name = 'access-limiter'
  spec.version = '0.1.0'
  spec.summary = 'At most so many requests in each window for each client, exact over all processes'
  spec.authors = ['Access Limiter developers']
  spec.license = 'MIT'
  spec.required_ruby_version = '>= 2.7'
  spec.files = ['limiter.rb', 'limiter/rack.rb']
  spec.require_paths = ['.']
  spec.metadata['rubygems_mfa_required'] = 'true'
end
