// What CodeNarc looks for in the Jenkinsfile: mistakes, and what is there for nothing.
ruleset {
    ruleset('rulesets/basic.xml')
    ruleset('rulesets/braces.xml')
    ruleset('rulesets/formatting.xml') {
        'LineLength' { length = 140 }
        exclude 'SpaceAroundMapEntryColon'
    }
    ruleset('rulesets/imports.xml')
    ruleset('rulesets/unnecessary.xml')
    ruleset('rulesets/unused.xml')
}
